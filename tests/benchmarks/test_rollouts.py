import json

import rollouts


def test_rollouts_of_this_checkout_are_counted(tmp_path, capsys):
    words = ["--prompts", "2", "--samples", "2", "--pairs", "1", "--threads", "1"]
    rollouts.main([*words, "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert kept["rollouts_per_second"] > 0
    assert kept["prompts"] == 2
    assert "rollouts a second" in capsys.readouterr().out
