"""Runs in the peers' interpreter: FastAPI and pydantic in front of ONNX Runtime, one thread each.

    SCORER=FOLDER uvicorn --app-dir benchmarks/peers serving_app:app --workers 2

FOLDER, written by `onnx_export.py`, holds model.onnx, ids.json (user and item ids in row order),
recent_items.npy and recent_levels.npy ([rows + 1, L]) and, where a model reads them, stored.npy, an
item's prestored row each.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

_folder = Path(os.environ["SCORER"])
_ids = json.loads((_folder / "ids.json").read_text())
_user_row = {id_: row for row, id_ in enumerate(_ids["user"], 1)}
_item_row = {id_: row for row, id_ in enumerate(_ids["item"], 1)}
_items, _levels = (np.load(_folder / f"recent_{name}.npy") for name in ("items", "levels"))
_stored = None
if (_folder / "stored.npy").exists():
    _stored = np.load(_folder / "stored.npy", mmap_mode="r")
_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_session = onnxruntime.InferenceSession(
    _folder / "model.onnx", _options, providers=["CPUExecutionProvider"]
)
_inputs = [each.name for each in _session.get_inputs()]


class Query(BaseModel):
    user_id: str
    item_ids: list[str]


class Answer(BaseModel):
    scores: list[float]


app = FastAPI()


@app.post("/v1/score")
async def score(query: Query) -> Answer:
    user = _user_row.get(query.user_id, 0)
    row_N = np.array([_item_row.get(item, 0) for item in query.item_ids], np.int64)
    values = [row_N, _items[user : user + 1], _levels[user : user + 1]]
    if _stored is not None:
        values.append(_stored[row_N])
    (score_N,) = _session.run(None, dict(zip(_inputs, values, strict=True)))
    return Answer(scores=score_N.tolist())
