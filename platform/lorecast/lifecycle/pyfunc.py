"""The model code MLflow stores beside a bundle, so that any MLflow tool can score with it.

Run by MLflow alone, from its copy; nothing imports this module. Needs lorecast where it runs.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class BundleModel(PythonModel):  # type: ignore[misc]
    """Click probabilities of rows with the columns user_id and item_id."""

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
        return self.scorer.score(users, items)


set_model(BundleModel())
