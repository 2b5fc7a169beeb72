"""Metering, its survival of kills, and the printed bill."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rich.console import Console

from gorae.observe import Ledger, read_prices, read_published


@pytest.fixture
def prices(monkeypatch):
    monkeypatch.delenv("GORAE_PRICES", raising=False)
    return read_prices()


def burn(core_seconds):
    end = time.process_time() + core_seconds
    while time.process_time() < end:
        pass


def test_a_stage_is_billed_for_its_flops_tokens_time_and_money(tmp_path, prices):
    ledger = Ledger(tmp_path)
    with ledger.stage("pretrain") as meter:
        meter.add(flops=2e9, tokens=100)
        meter.add(flops=1e9, tokens=50)
        burn(0.05)
    [stage] = ledger.bill(prices).stages
    assert (stage.stage, stage.flops, stage.tokens, stage.attempts) == ("pretrain", 3e9, 150, 1)
    assert stage.core_hours >= 0.05 / 3600
    assert stage.wall_seconds >= stage.core_hours * 3600 * 0.9  # one busy thread; the two clocks tick apart
    assert stage.usd == stage.core_hours * prices["vcpu"].usd_per_hour


def test_what_others_were_paid_is_on_the_bill_and_a_price_that_is_not_known_leaves_none(tmp_path, prices):
    ledger = Ledger(tmp_path)
    with ledger.stage("traces") as meter:
        meter.pay(100, 0.25)
        meter.add(tokens=7)
    with Ledger(tmp_path).stage("traces") as meter:
        meter.pay(50, 0.5)
    [stage] = Ledger(tmp_path).bill(prices).stages
    assert stage.tokens == 157
    assert stage.usd == pytest.approx(0.75 + stage.core_hours * prices["vcpu"].usd_per_hour)
    with (ledger := Ledger(tmp_path)).stage("more") as meter:
        meter.pay(30, None)
    assert [stage.usd is None for stage in ledger.bill(prices).stages] == [False, True]
    assert ledger.bill(prices).total.usd is None
    assert ledger.spent("more").unpriced_tokens == 30


def test_sleeping_costs_wall_time_but_hardly_any_core_time(tmp_path, prices):
    ledger = Ledger(tmp_path)
    with ledger.stage("serve"):
        time.sleep(0.2)
    [stage] = ledger.bill(prices).stages
    assert stage.wall_seconds >= 0.2
    assert stage.core_hours * 3600 < 0.1


def test_child_processes_that_were_waited_for_are_billed(tmp_path, prices):
    ledger = Ledger(tmp_path)
    with ledger.stage("prepare"):
        program = "import time\nwhile time.process_time() < 0.2: pass"
        subprocess.run([sys.executable, "-c", program], check=True)
    assert ledger.spent("prepare").core_seconds >= 0.15  # children are counted in ticks of 10 ms


def test_attempts_of_later_processes_add_up(tmp_path, prices):
    for _ in range(3):
        ledger = Ledger(tmp_path)
        with ledger.stage("rl") as meter:
            meter.add(flops=1e9, tokens=10)
    assert Ledger(tmp_path).spent("rl").attempts == 3
    assert Ledger(tmp_path).spent("rl").flops == 3e9
    assert Ledger(tmp_path).bill(prices).total.tokens == 30


def test_a_stage_that_fails_is_billed_all_the_same(tmp_path):
    def fail_halfway():
        with Ledger(tmp_path).stage("rl") as meter:
            meter.add(tokens=7)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert Ledger(tmp_path).spent("rl").tokens == 7


def test_a_killed_attempt_stays_on_the_bill(tmp_path, prices):
    program = textwrap.dedent("""
        import sys, time
        import gorae.observe.ledger as ledger
        ledger.SAVE_SECONDS = 0.02
        with ledger.Ledger(sys.argv[1]).stage("pretrain") as meter:
            meter.add(flops=5e9, tokens=64)
            time.sleep(0.3)
            print("spent", flush=True)
            time.sleep(60)
    """)
    victim = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "spent\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    ledger = Ledger(tmp_path)
    killed = ledger.spent("pretrain")
    assert (killed.flops, killed.tokens, killed.attempts) == (5e9, 64, 1)
    assert killed.wall_seconds > 0.1
    with ledger.stage("pretrain") as meter:
        meter.add(flops=5e9, tokens=64)
    [stage] = ledger.bill(prices).stages
    assert (stage.flops, stage.tokens, stage.attempts) == (1e10, 128, 2)
    assert stage.wall_seconds >= killed.wall_seconds


def test_the_bill_of_a_stage_still_running_counts_what_it_took_so_far(tmp_path, prices):
    ledger = Ledger(tmp_path)
    with ledger.stage("evaluate") as meter:
        meter.add(tokens=5)
        assert ledger.bill(prices).total.tokens == 5


def test_a_stage_inside_a_stage_is_refused_because_its_time_would_be_billed_twice(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.stage("rl"), pytest.raises(AssertionError, match="billed twice"), ledger.stage("rollout"):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stages": {"rl": {"hours": 1}}}', '{"stages": {"rl": 1}}'])
def test_a_foreign_bill_file_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "bill.json").write_text(text)
    with pytest.raises(ValueError, match=r"bill\.json is not a ledger"):
        Ledger(tmp_path)


def test_deepseeks_own_bills_come_to_their_published_totals(prices):
    v3, r1 = read_published(prices)
    assert [round(stage.usd) for stage in v3.stages] == [5_328_000, 238_000, 10_000]
    assert (v3.total.gpu_hours, v3.total.usd) == (2_788_000, 5_576_000)
    assert v3.stages[0].flops == pytest.approx(250.4e9 * 14.8e12)
    assert v3.stages[0].wall_seconds == 2_664_000 / 2048 * 3600
    assert v3.stages[1].tokens == 1000 * (1920 * 32768 + 480 * 131072)
    assert (r1.total.gpu_hours, r1.total.usd) == (147_000, 294_000)
    assert v3.total.flops is None  # what one stage lacks has no total


def run_of_two_stages(folder, prices):
    ledger = Ledger(folder)
    for name in ("pretrain", "rl", "rl"):
        with ledger.stage(name) as meter:
            meter.add(flops=2.5e15, tokens=3_000_000)
    return ledger.bill(prices)


def test_the_bill_as_json_holds_stages_total_prices_and_the_published_lines(tmp_path, prices):
    bill = json.loads(json.dumps(run_of_two_stages(tmp_path, prices).as_dict()))
    assert [stage["stage"] for stage in bill["stages"]] == ["pretrain", "rl"]
    assert bill["total"]["tokens"] == 9_000_000
    assert {price["item"] for price in bill["prices"]} == {"vcpu", "h800"}
    assert [other["model"] for other in bill["published"]] == ["DeepSeek-V3", "DeepSeek-R1"]
    assert bill["published"][1]["total"]["usd"] == 294_000


def test_screen_and_markdown_show_our_stages_beside_deepseeks_with_prices_and_sources(tmp_path, prices):
    bill = run_of_two_stages(tmp_path, prices)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(bill.table())
    for shown in (console.export_text(), bill.markdown()):
        assert "rl (2 attempts)" in shown
        assert "7.50 PFLOP" in shown
        assert "3.71 YFLOP" in shown
        assert "$5,576,000" in shown
        assert "$294,000" in shown
        assert prices["vcpu"].as_of in shown
        assert "2412.19437" in shown


def test_no_name_is_cut_off_on_a_terminal_of_80_columns(tmp_path, prices):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(run_of_two_stages(tmp_path, prices).table())
    shown = console.export_text()
    assert "…" not in shown
    assert "DeepSeek-V3  " in shown
    assert "DeepSeek-R1  " in shown


def test_every_row_of_the_markdown_table_has_the_same_number_of_cells(tmp_path, prices):
    rows = [line for line in run_of_two_stages(tmp_path, prices).markdown().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {7}
