import pyarrow as pa
import pytest

from lorecast.knowledge.names import count_names


@pytest.mark.parametrize(
    ("text", "prompt", "named", "from_prompt"),
    [
        ("The film was directed by Ada Lind.", "Who directed Corford Raven?", 1, 0),
        ("It follows Corford Raven and Ada Lind.", 'The film "Corford Raven".', 2, 1),
        ("It is Ada Lind, Hugo Tanaka.", "ada LIND", 2, 1),
        ("Gloomy. Slow. Nothing else", "", 0, 0),
        ("This is Lind's best, in New York", "Lind", 2, 1),
        ("I say that I like it", "", 0, 0),
        ("", "anything", 0, 0),
    ],
)
def test_names_and_whether_the_prompt_had_them(
    text: str, prompt: str, named: int, from_prompt: int
) -> None:
    names = count_names(pa.array([text]), pa.array([prompt]))
    assert (names.named.tolist(), names.from_prompt.tolist()) == ([named], [from_prompt])


def test_each_text_is_held_against_its_own_prompt() -> None:
    texts = pa.array(["by Ada", "by Ada", "by Ada", "Ada"])
    prompts = pa.array(["of Ada", "of Hugo", None, "of Ada"])
    names = count_names(texts, prompts)
    assert names.named.tolist() == [1, 1, 0, 0]
    assert names.from_prompt.tolist() == [1, 0, 0, 0]
