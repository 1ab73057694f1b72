"""`GET /`: the model before a person, as HTML from templates that escape all they are given.

One page at a time is worked out, in a thread beside the event loop, so that requests for scores go
on. The page loads nothing from elsewhere and works without its script.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import BundleCard
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.view import examples, view

_PAGES: Final = Path(__file__).with_name("pages")
_ASSETS: Final = {"page.css": "text/css", "page.js": "text/javascript"}
_LONGEST_ID: Final = 200
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_FIGURES: Final = {
    "auc": "AUC",
    "gauc": "GAUC",
    "uauc": "UAUC",
    "log_loss": "LogLoss",
    "ece": "ECE",
    "rig": "RIG",
    "auc_cold": "AUC of cold items",
}
"""What figures are called; others keep their names."""


def add_page(app: FastAPI, current: Callable[[], tuple[Scorer, str]], *, max_items: int) -> None:
    """Adds `GET /` and what it loads. `current` gives the scorer of now and its version; the page
    ranks at most `max_items` candidates."""
    one_at_a_time = Lock()

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        """The model, a user, two rankings, and the texts behind an item."""
        user_id, item_id = (_id(request, name) for name in ("user", "item"))
        with one_at_a_time:
            scorer, version = current()
            of_users = examples(scorer)
            shown = view(scorer, user_id or of_users[0], item_id, max_items=max_items)
        text = (
            _environment()
            .get_template("page.html")
            .render(
                version=version,
                model=_model(scorer.bundle),
                examples=of_users,
                shown=shown,
                bare_form=scorer.bare_form if isinstance(scorer, ClickScorer) else None,
                contexts=scorer.context_names,
                link=partial(_link, shown.user_id),
            )
        )
        headers = {**_HEADERS, "cache-control": "no-store"}
        return Response(text, media_type="text/html", headers=headers)

    for name, media_type in _ASSETS.items():
        _add_asset(app, name, media_type)


def _add_asset(app: FastAPI, name: str, media_type: str) -> None:
    content = (_PAGES / name).read_bytes()

    @app.get(f"/{name}", include_in_schema=False)
    async def asset() -> Response:
        """A file of the page; there is no route to any other."""
        headers = {**_HEADERS, "cache-control": "max-age=300"}
        return Response(content, media_type=media_type, headers=headers)


def _link(shown: str, user: str | None = None, item: str | None = None) -> str:
    """The address of another user's page, or of another item before the user shown."""
    return "?" + urlencode({"user": user or shown} | ({"item": item} if item else {}))


def _id(request: Request, name: str) -> str | None:
    """The id in the query, none if it is empty. Raises HTTPException 422 if it is too long."""
    value = request.query_params.get(name, "").strip()
    if len(value) > _LONGEST_ID:
        raise HTTPException(422, f"{name}: {len(value)} characters are more than {_LONGEST_ID}")
    return value or None


def _model(bundle: BundleCard) -> dict[str, Any]:
    """What the page says of the model, and its figures: name, then a value a part of the data."""
    facts = {"kind": "language model" if bundle.kind == "sella" else "click model"}
    if isinstance(bundle, Bundle):
        facts["backbone"] = bundle.model.backbone
        facts["extractor"] = bundle.model.extractor if bundle.knowledge else "none"
        facts["strategy"] = bundle.strategy
    else:
        facts["method"] = bundle.strategy
    facts |= {"users": f"{bundle.num_users:,}", "items": f"{bundle.num_items:,}"}
    names = dict.fromkeys(name for values in bundle.metrics.values() for name in values)
    return {
        "kind": bundle.kind,
        "extractor": facts.get("extractor", "none"),
        "facts": facts,
        "fingerprints": bundle.fingerprints,
        "figures": {
            "names": [_FIGURES.get(name, name) for name in names],
            "rows": {
                split: [values.get(name) for name in names]
                for split, values in bundle.metrics.items()
            },
        },
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
