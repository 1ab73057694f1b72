"""Point 1b: what the tiny language model knows of its world, asked through vLLM, greedily.

Every factor of every item, and of every user with the history that the generate stage would show.
The headline is over the five hidden factors that decide taste: the one that repeats another and
the one that is the same for all would flatter it.
"""

import os
import time

from benchmarks.harness import Outcome
from lorecast.config import LLMConfig
from lorecast.jobs.vllm_engine import VLLMEngine, VLLMSettings, environment
from lorecast.knowledge.factors import load_factor_set
from lorecast.knowledge.language_model import find_language_model
from lorecast.world import generate, llm_path
from lorecast.world.exam import item_exam, mean_accuracy, report, user_exam

BAR = "items: ≥ 0.90 right on the most watched quarter, ≥ 0.20 lower on the least; users: ≥ 0.60"
_POPULAR, _MARGIN, _USERS = 0.90, 0.20, 0.60


def measure() -> Outcome:
    """Shares of right answers, and how fast vLLM gave them (start apart)."""
    model = find_language_model(str(llm_path()))
    os.environ.update(environment(model, num_gpus=0))
    engine = VLLMEngine(VLLMSettings(model=model, llm=LLMConfig(), on_gpu=False))
    world, factor_set = generate(), load_factor_set("world")
    accuracy, speed = {}, {}
    for exam in (item_exam(world, factor_set), user_exam(world, factor_set)):
        started_s = time.perf_counter()
        answers = engine.chat(exam.chats)
        seconds = time.perf_counter() - started_s
        accuracy[exam.side] = report(world, exam, [answer.text or "" for answer in answers])
        speed[exam.side] = {
            "prompts": len(answers),
            "seconds": round(seconds, 1),
            "prompts_per_s": round(len(answers) / seconds, 1),
            "output_tokens_per_s": round(sum(a.output_tokens for a in answers) / seconds, 1),
            "prompt_tokens_per_s": round(sum(a.prompt_tokens for a in answers) / seconds, 1),
        }
    popular = mean_accuracy(accuracy["item"], "popular")
    rare = mean_accuracy(accuracy["item"], "rare")
    users = mean_accuracy(accuracy["user"], "all")
    return Outcome(
        figure=f"right: items {popular:.3f} popular, {rare:.3f} rare; users {users:.3f}",
        passed=popular >= _POPULAR and rare <= popular - _MARGIN and users >= _USERS,
        details={"accuracy": accuracy, "speed": speed},
    )


if __name__ == "__main__":
    print(measure())
