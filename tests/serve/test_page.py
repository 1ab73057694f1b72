"""`GET /` in process: what it says of each kind of model, and that nothing it shows is markup."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from lorecast.data.dataset import Dataset
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app
from lorecast.serve.view import SHOWN, examples, view
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

EVIL = """<script>alert("'1'")</script><img src=x onerror=alert(1)>"""


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    workspace = tmp_path_factory.mktemp("workspace")
    return Scorer.load(write_small_bundle(workspace, write_tiny_dataset(workspace), texts=True))


def client_of(scorer: Scorer, max_items: int = 1000) -> TestClient:
    return TestClient(create_app(scorer, model_version="films/3", max_items=max_items))


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> TestClient:
    return client_of(scorer)


class _Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def page(client: TestClient, **query: str) -> _Page:
    answer = client.get("/", params=query)
    assert answer.status_code == 200
    return _Page(answer.text)


def told(page: _Page) -> str:
    return " ".join(page.words.split())


class TestView:
    def test_rankings_are_the_scorers_without_the_history(self, scorer: Scorer) -> None:
        shown = view(scorer, "u4", None, max_items=1000)
        past = {seen.item_id for seen in shown.history}
        assert past
        ranked = scorer.rank("u4", 40)
        expected = [
            (item, score)
            for item, score in zip(ranked.item_ids, ranked.score_N.tolist(), strict=True)
            if item not in past
        ]
        items, scores = zip(*expected[:SHOWN], strict=True)
        assert [place.item_id for place in shown.ranking] == list(items)
        assert [place.score for place in shown.ranking] == pytest.approx(scores, abs=1e-6)
        assert shown.num_candidates == len(expected)
        assert not shown.is_thinned

    def test_gains_say_what_knowledge_does(self, scorer: Scorer) -> None:
        shown = view(scorer, "u4", None, max_items=1000)
        assert [p.place for p in shown.bare_ranking] == list(range(1, SHOWN + 1))
        bare = {p.item_id: p for p in shown.bare_ranking}
        both = [(p, bare[p.item_id]) for p in shown.ranking if p.item_id in bare]
        assert both
        assert all(p.gain == b.gain == b.place - p.place for p, b in both)
        gone = [
            b for b in shown.bare_ranking if b.item_id not in {p.item_id for p in shown.ranking}
        ]
        assert all(b.place - b.gain > SHOWN for b in gone)

    def test_the_history_is_newest_first_with_its_ratings(self, scorer: Scorer) -> None:
        users = scorer.bundle.entities("user")
        rows = [row for row in users["recent_item_rows"][3].as_py() if row]
        levels = users["recent_ratings"][3].as_py()[-len(rows) :]
        shown = view(scorer, "u4", None, max_items=1000)
        assert [(s.item_id, s.title, s.rating) for s in shown.history] == [
            (f"i{row}", f"Film {row}", float(level))
            for row, level in zip(rows, levels, strict=True)
        ][::-1]

    def test_a_large_catalogue_is_thinned_and_said_to_be(self, scorer: Scorer) -> None:
        shown = view(scorer, "u4", None, max_items=12)
        assert (shown.num_candidates, shown.is_thinned) == (12, True)
        assert "12 items that are not in this history, picked evenly from all" in told(
            page(client_of(scorer, 12), user="u4")
        )

    def test_examples_are_users_with_histories(self, scorer: Scorer) -> None:
        ids = examples(scorer)
        assert len(set(ids)) == len(ids) == 6
        assert all(view(scorer, id_, None, max_items=1000).history for id_ in ids)


class TestPage:
    def test_says_what_is_served(self, client: TestClient, scorer: Scorer) -> None:
        words = told(page(client))
        for word in (
            "films/3",
            "click model",
            "din",
            "kser",
            "all_parameters",
            "LogLoss",
            "0.6000",
        ):
            assert word in words
        assert scorer.bundle.fingerprints["knowledge"][:8] in words

    def test_texts_stand_beside_their_weights(self, client: TestClient, scorer: Scorer) -> None:
        shown = page(client, user="u4", item="i6")
        words = told(shown)
        gate_C = scorer.gates("u4", "i6")  # type: ignore[attr-defined]
        for factor, gate in zip(("mood", "theme"), gate_C, strict=False):
            assert f"{factor} facts weight {gate:.2f} {factor} of item i6, <b>bold</b>" in words
        assert f"mood taste weight {gate_C[2]:.2f} mood of user u4" in words

    def test_the_first_of_the_ranking_is_chosen_unless_another_is(
        self, client: TestClient, scorer: Scorer
    ) -> None:
        first = view(scorer, "u4", None, max_items=1000).ranking[0]
        assert f"About {first.title}" in told(page(client, user="u4"))
        assert "About Film 7" in told(page(client, user="u4", item="i7"))

    def test_unknown_ids_are_said_to_be(self, client: TestClient) -> None:
        words = told(page(client, user="nobody", item="nothing"))
        assert "The model has never seen this user" in words
        assert "The model has never seen this item" in words

    def test_without_texts_the_weights_remain(self, tmp_path: Path) -> None:
        scorer = Scorer.load(write_small_bundle(tmp_path, write_tiny_dataset(tmp_path)))
        words = told(page(client_of(scorer), user="u4", item="i6"))
        assert "The texts are not in this bundle" in words
        assert "mood facts weight" in words

    def test_without_knowledge_there_is_one_ranking(self, tmp_path: Path) -> None:
        folder = write_small_bundle(tmp_path, write_tiny_dataset(tmp_path), knowledge=False)
        shown = page(client_of(Scorer.load(folder)))
        assert "This model reads no texts" in told(shown)
        assert "This model has no knowledge" in told(shown)
        assert sum(tag == "ol" for tag, _ in shown.tags) == 2  # history and ranking

    def test_contexts_and_histories_without_ratings(self, tmp_path: Path) -> None:
        dataset = replace(write_tiny_dataset(tmp_path, rich=True), rates_histories=False)
        words = told(page(client_of(Scorer.load(write_small_bundle(tmp_path, dataset)))))
        assert "nothing said of device, hour" in words
        assert "chose newest first" in words

    def test_a_swapped_scorer_is_shown_at_once(self, scorer: Scorer) -> None:
        from fastapi import FastAPI

        from lorecast.serve.page import add_page

        served = [(scorer, "films/3")]
        app = FastAPI()
        add_page(app, lambda: served[0], max_items=1000)
        client = TestClient(app)
        assert "films/3" in client.get("/").text
        served[0] = (scorer, "films/4")
        assert "films/4" in client.get("/").text
        assert "films/3" not in client.get("/").text


@pytest.mark.security
class TestUntrusted:
    def test_titles_and_texts_are_no_markup(self, client: TestClient, tmp_path: Path) -> None:
        dataset: Dataset = write_tiny_dataset(tmp_path)
        items = pq.read_table(dataset.path / "items.parquet")
        evil = pa.array([f"{EVIL} {n}" for n in range(len(items))])
        place = items.column_names.index("title")
        pq.write_table(items.set_column(place, "title", evil), dataset.path / "items.parquet")
        evil_client = client_of(Scorer.load(write_small_bundle(tmp_path, dataset, texts=True)))
        shown = page(evil_client, user="u4", item="i2")
        assert sum(tag == "script" for tag, _ in shown.tags) == 1
        assert {tag for tag, _ in shown.tags} == {tag for tag, _ in page(client, user="u4").tags}
        assert EVIL in shown.words
        assert "<b>bold</b>" in shown.words

    @pytest.mark.parametrize("name", ["user", "item"])
    def test_ids_in_the_address_neither(self, client: TestClient, name: str) -> None:
        evil = f'"><{EVIL}'
        shown = page(client, **{"user": "u4", name: evil})
        assert sum(tag == "script" for tag, _ in shown.tags) == 1
        assert not [tag for tag, _ in shown.tags if tag == "img"]
        assert not [a for _, a in shown.tags if any(key.startswith("on") for key in a)]
        assert html.unescape(evil) in shown.words

    def test_links_keep_odd_ids_whole(self, tmp_path: Path) -> None:
        dataset = write_tiny_dataset(tmp_path)
        users = pq.read_table(dataset.path / "users.parquet")
        odd = pa.array([f"a&b=c#{n} %2F/.." for n in range(len(users))])
        pq.write_table(users.set_column(0, "id", odd), dataset.path / "users.parquet")
        client = client_of(Scorer.load(write_small_bundle(tmp_path, dataset)))
        hrefs = [a["href"] for tag, a in page(client).tags if tag == "a" and "data-item" not in a]
        address = next(href for href in hrefs if href and "user=" in href)
        shown = _Page(client.get(f"/{address}").text)
        (value,) = [a["value"] for tag, a in shown.tags if a.get("id") == "user"]
        assert value in odd.to_pylist()
        assert "has never seen this user" not in told(shown)

    def test_an_endless_id_is_refused(self, client: TestClient) -> None:
        answer = client.get("/", params={"user": "u" * 1000})
        assert answer.status_code == 422
        assert json.loads(answer.text)["error"] == "user: 1000 characters are more than 200"

    def test_nothing_is_loaded_from_elsewhere(self, client: TestClient) -> None:
        answer = client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        loaded = [
            value
            for tag, attributes in _Page(answer.text).tags
            for key, value in attributes.items()
            if key in ("src", "href", "action") and tag != "a"
        ]
        assert sorted(map(str, loaded)) == ["./", "data:,", "page.css", "page.js"]
        assert not [a for _, a in _Page(answer.text).tags if "style" in a]
        for name in ("page.css", "page.js"):
            asset = client.get(f"/{name}").text
            assert not re.search(r"https?:|@import|url\(", asset)

    @pytest.mark.parametrize(
        "path",
        [
            "/../app.py",
            "/page.css/../../app.py",
            "/%2e%2e/app.py",
            "/pages/page.html",
            "//etc/passwd",
        ],
    )
    def test_no_other_file_is_served(self, client: TestClient, path: str) -> None:
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json() == {"error": "no such path; /docs lists what there is"}


def test_scores_are_served_while_a_page_is_made(scorer: Scorer) -> None:
    """The event loop is free: a page in the making does not hold up a request."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from fastapi import FastAPI

    from lorecast.serve.page import add_page

    entered, leave = threading.Event(), threading.Event()

    def current() -> tuple[Scorer, str]:
        entered.set()
        assert leave.wait(30)
        return scorer, "films/3"

    app = FastAPI()
    add_page(app, current, max_items=1000)

    @app.get("/free")
    async def free() -> int:
        return 1

    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.get, "/")
        assert entered.wait(30)
        assert client.get("/free").json() == 1
        leave.set()
        assert slow.result().status_code == 200
