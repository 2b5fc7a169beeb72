import json
from contextlib import suppress

import pytest

from gorae.text import CHAT_TEMPLATE, V3, Message, Tokenizer, Tool, ToolCall
from gorae.text import sandbox as sandbox_module
from gorae.text.sandbox import MAX_SOURCE_CHARACTERS, compile_template
from gorae.text.template import ChatTemplate

QUESTION = [Message("user", "  hi ")]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sandbox_module, "MAX_CHARACTERS", 10_000)
    monkeypatch.setattr(sandbox_module, "MAX_STEPS", 10_000)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ raise_exception.__globals__ }}",
        "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).mro() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%99999999d' % 1 }}",
    ],
)
def test_tricks_show_nothing_and_change_nothing(source):
    messages = [{"role": "user"}]
    shown = ""
    with suppress(ValueError):  # refused, where it is no undefined value, which prints nothing
        shown = compile_template(source).render(messages=messages)
    assert (shown, messages) == ("", [{"role": "user"}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in 'x' * 5000 %}{% for b in 'x' * 5000 %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
@pytest.mark.usefixtures("small")
def test_a_loop_without_end_is_stopped(source):
    with pytest.raises(ValueError, match="the model's chat template fails"):
        compile_template(source).render()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9000) %}{{ 'a long piece of text' }}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 1000000000000 * [1] }}",
        "{% set n = namespace(s='xx') %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s=99) %}{% for a in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ range(10 * 10000000000)|list }}",
        "{{ 'x'.ljust(1000000000000) }}",
        "{{ {}|tojson(indent=1000000000000) }}{{ 'x'.zfill(1000000000000) }}",
    ],
)
@pytest.mark.usefixtures("small")
def test_text_without_end_is_stopped(source):
    with pytest.raises(ValueError, match="the model's chat template fails"):
        compile_template(source).render()


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ 'x'|center(9) }}", "{{ x|nothing }}", "x" * (MAX_SOURCE_CHARACTERS + 1), "{{ (" * 3000]
)
def test_what_is_no_template_is_refused(source):
    with pytest.raises(ValueError, match=r"the chat template (is not valid jinja|has \d+ characters, more than)"):
        compile_template(source)


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ missing.name }}", "{{ messages[0] + 1 }}"])
def test_a_template_that_fails_is_named(source):
    with pytest.raises(ValueError, match=r"the model's chat template fails \(\w+: .*\); use another template"):
        ChatTemplate(source).write(QUESTION)


def test_what_a_template_refuses_is_passed_on():
    with pytest.raises(ValueError, match="refuses this conversation: only one turn, please"):
        ChatTemplate("{{ raise_exception('only one turn, please') }}").write(QUESTION)


def test_a_template_gets_what_transformers_gives_it():
    source = (
        "{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}|{{ tools|length }}|"
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }} {{ m.content|trim }};"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ tools|tojson }}"
    )
    template = ChatTemplate(source, special_tokens={"bos_token": "<b>", "eos_token": "<e>"})
    written = "".join(text for text, _ in template.write(QUESTION, tools=[Tool("f", "<a> & ü")]).parts)
    described = {"type": "function", "function": {"name": "f", "description": "<a> & ü", "parameters": {}}}
    assert written == "<b>|<e>|True|1|1/1 user hi;" + json.dumps([described], ensure_ascii=False)


def test_calls_reach_a_template_as_it_reads_them():
    turns = [*QUESTION, Message("assistant", "", tool_calls=(ToolCall("i", "f", '{"a": "</think>"}'),))]
    turns.append(Message("tool", "done", tool_call_id="i"))
    show = "{{ tools }}{% for m in messages %}{% for c in m.tool_calls %}{{ c.id }} {{ c.function.name }} "
    end = "{% endfor %}{{ m.tool_call_id }}{% endfor %}"
    for source in ("{{ c.function.arguments }}", "{{ c.function.arguments | tojson }}"):
        written = ChatTemplate(show + source + end).write(turns)
        assert written.parts == [('Nonei f {"a": "</think>"}i', False)]
    broken = [turns[0], Message("assistant", "", tool_calls=(ToolCall("i", "f", "{"),)), turns[2]]
    with pytest.raises(
        ValueError, match=r"the tool call's arguments '\{' are not JSON, which this model's chat template"
    ):
        ChatTemplate(show + "{{ c.function.arguments | tojson }}" + end).write(broken)


def test_a_content_can_not_become_a_control_token_together_with_its_neighbour():
    source = "{% for m in messages %}{{ m.content }}{% endfor %}<｜User｜>"
    halves = [Message("system", "<｜Us"), Message("user", "er｜>")]
    assert ChatTemplate(source).write(halves).parts == [("<｜User｜>", False), ("<｜User｜>", True)]


def test_a_template_in_a_file_of_its_own_comes_first(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}!", encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode_chat(QUESTION) == tokenizer.encode("  hi !")
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode_chat(QUESTION) == tokenizer.encode("  hi !")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ('{"chat_template": 5}', "has no chat_template that is text, nor one named default"),
        ('{"chat_template": [{"name": "rag", "template": ""}]}', "nor one named default"),
        ('{"chat_template": "{% for %}"}', "the chat template is not valid jinja"),
        ("{", r"tokenizer_config\.json is not JSON"),
        ("[]", r"tokenizer_config\.json is not a JSON object"),
    ],
)
def test_broken_settings_are_named(tokenizer, tmp_path, settings, complaint):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        Tokenizer.load(tmp_path)


def test_a_checkpoint_names_its_own_special_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    names = {"bos_token": {"content": "<think>"}, "eos_token": "</think>", "pad_token": None}
    templates = [{"name": "default", "template": CHAT_TEMPLATE}]
    file.write_text(json.dumps(names | {"chat_template": templates}), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (5, 6, 2)
    loaded.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert (again.bos_id, again.eos_id, again.pad_id) == (5, 6, 2)


@pytest.mark.parametrize("settings", [{"bos_token": None}, {"bos_token": None, "add_bos_token": False}])
def test_a_tokenizer_without_a_begin_puts_none_before_texts_and_prompts(tokenizer, tmp_path, settings):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings | {"chat_template": source}), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.text_start_ids) == (None, [])
    assert loaded.encode_chat(QUESTION) == tokenizer.encode("  hi ")
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").bos_id is None
    builtin = Tokenizer.load(tmp_path, chat_format=V3)
    assert builtin.encode_chat(QUESTION) == Tokenizer.load(tmp_path / "again", chat_format=V3).encode_chat(QUESTION)
    assert builtin.encode_chat(QUESTION)[0] == tokenizer.user_id
    conversation = [*QUESTION, Message("assistant", "hello")]
    assert builtin.decode_conversation(builtin.encode_conversation(conversation)) == conversation


def test_a_begin_that_only_templates_write_stands_before_no_text(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": False}), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.text_start_ids) == (tokenizer.bos_id, [])
    assert loaded.encode_chat(QUESTION)[0] == tokenizer.bos_id
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").text_start_ids == []
