"""The model code MLflow stores beside a bundle, so that any MLflow tool can score with it.

Run by MLflow alone, from its copy; nothing imports this module. Needs lorecast where it runs.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class BundleModel(PythonModel):  # type: ignore[misc]
    """Probabilities of a click, or of liking, for rows with the columns user_id and item_id.

    Columns named as the model's contexts count, too; a null there is a value that is not known.
    """

    def load_context(self, context: PythonModelContext) -> None:
        from lorecast.lifecycle.scorer import Scorer

        self.scorer = Scorer.load(context.artifacts["bundle"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> np.ndarray:
        users, items = (model_input[name].tolist() for name in ("user_id", "item_id"))
        names = [name for name in self.scorer.context_names if name in model_input]
        rows = model_input[names].to_dict("records")
        contexts = [{str(k): value for k, value in row.items() if pd.notna(value)} for row in rows]
        return self.scorer.score(users, items, contexts=contexts)


set_model(BundleModel())
