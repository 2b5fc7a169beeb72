"""Serving what a run made: the model behind the API, and the chat page told what this model can and can not do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from starlette.types import ASGIApp

from gorae.app import create_app
from gorae.config import CacheType
from gorae.engine import Engine, require_writable
from gorae.observe import log
from gorae.recipes.run import BEGUN, load_chat_model
from gorae.recipes.settings import ServeSettings
from gorae.server import create_api, serve, serving
from gorae.tasks import LANGUAGES, draw_problem

READ_WHILE_WRITING = 512  # tokens of a long prompt a step: so long do replies that are being written pause

ABOUT = {
    "ko": (
        "이 모델은 이 컴퓨터에서 몇 분 만에 처음부터 학습한 아주 작은 모델입니다.\n"
        "할 수 있는 것: 아래 예시처럼 일의 자리만 보여 주는 다섯 단계 계수기 문제를 한국어, 중국어, 영어로 풀기.\n"
        "할 수 없는 것: 다른 모든 질문. 대화, 지식, 번역은 하지 못하며 틀린 답을 그럴듯하게 쓸 수 있습니다. "
        "앞선 대화를 기억하도록 학습하지 않았으니 문제마다 새 대화를 시작하세요."
    ),
    "zh": (
        "这是在这台电脑上几分钟内从零训练出来的一个极小的模型。\n"
        "能做的：用韩文、中文、英文解答像下面例子那样“只显示个位数的计数器”五步问题。\n"
        "不能做的：其他一切问题。它不会聊天，没有知识，不会翻译，还可能写出看似有理的错误答案。"
        "它没有学过多轮对话，每个问题请新开一次对话。"
    ),
    "en": (
        "This is a very small model, trained from nothing on this computer within minutes.\n"
        "It can solve problems about a counter that shows only the last digit, in five steps worded like the examples "
        "below, in Korean, Chinese and English.\n"
        "It can do nothing else: no conversation, no knowledge, no translation, and it may write wrong answers that "
        "look right. It has never seen a second turn, so start a new chat for every problem."
    ),
}

UNKNOWN = {
    "ko": "이 모델은 다른 곳에서 만들어졌습니다. 무엇을 할 수 있는지 알 수 없으며 틀린 답을 그럴듯하게 쓸 수 있습니다.",
    "zh": "这个模型是在别处训练的。它能做什么并不清楚,还可能写出看似有理的错误答案。",
    "en": "This model was made elsewhere. What it can do is not known, and it may write wrong answers that look right.",
}


def example_questions(count: int = 2) -> list[dict[str, str]]:
    """Questions for the page, the same ones every time, drawn from a seed that nothing else is drawn from."""
    random = Random("examples on the page")
    problems = [draw_problem(random, language=language) for language in LANGUAGES for _ in range(count)]
    return [{"language": problem.language, "text": problem.prompt} for problem in problems]


def serve_model(
    path: Path, wanted: ServeSettings, *, cache_type: CacheType | None = None, prefix_folder: Path | None = None
) -> None:
    """Serve the model in `path`, API and page, until Ctrl-C; `cache_type` and `prefix_folder` are the engine's.

    Raises ValueError where nothing can be written to that folder.
    """
    if prefix_folder is not None:
        require_writable(prefix_folder)  # before the model is loaded, which may take long
    api = _api(path, create_app(**words_of_the_page(path)), cache_type=cache_type, prefix_folder=prefix_folder)
    name = model_name(path)
    serve(api, wanted.host, wanted.port, on_ready=lambda address: log(f"serving {name} at {address} until Ctrl-C"))


@contextmanager
def served_model(path: Path) -> Iterator[str]:
    """Serve the model in `path` to this process while the block runs; yield the API's address."""
    with serving(_api(path)) as address:
        yield f"{address}/v1"


def _api(path: Path, page: ASGIApp | None = None, **options: Any) -> ASGIApp:
    """`options` are the engine's."""
    model = load_chat_model(path)
    engine = Engine(model, prefill_tokens_while_running=READ_WHILE_WRITING, speculation="auto", **options)
    return create_api(engine, model.tokenizer, model_name(path), max_positions=engine.max_positions, page=page)


def words_of_the_page(path: Path) -> dict[str, Any]:
    """What the page offers and says: of a model in a run folder what it can do, of any other that nothing is known."""
    is_of_a_run = (path.resolve().parent.parent / BEGUN).exists()
    return {"examples": example_questions(), "about": ABOUT} if is_of_a_run else {"examples": [], "about": UNKNOWN}


def model_name(path: Path) -> str:
    """The folder's name; a run's folders end in `<stage>/model`, where run and stage say more."""
    folder = path.resolve()
    return f"gorae-{folder.parent.parent.name}-{folder.parent.name}" if folder.name == "model" else folder.name
