"""Record the reference: the scenarios with Nova's own agent, written to fixtures/rows/*.json,
and the signatures of the RPC methods that it serves, written to fixtures/rpc_methods.json."""

import json
import pathlib

from tests.contract import environment, moves, scenario

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures" / "rows"
METHODS = FIXTURES.parent / "rpc_methods.json"


def load(step: str) -> dict[str, object]:
    """Return what Nova's own agent left after this step of the scenario."""
    return json.loads((FIXTURES / f"{step}.json").read_text())


def main() -> None:
    """Run the scenarios under nova-compute and write one file for each step."""
    with environment.Environment() as env:
        env.start_nova_compute("reference")
        methods = env.do("server_methods")
        results = scenario.OneHost(env, "reference").run()
        results |= moves.TwoHosts(
            env, ("reference-one", "reference-two"), env.start_nova_compute).run()
    problems = {name: result for name, result in results.items()
                if "failed" in result or "skipped" in result}
    if problems:
        raise SystemExit(f"Nothing was written. These steps did not end: {problems}")
    METHODS.write_text(json.dumps(methods, indent=1, sort_keys=True) + "\n")
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for old in FIXTURES.glob("*.json"):
        old.unlink()
    for name, result in results.items():
        text = json.dumps(result, indent=1, sort_keys=True)
        (FIXTURES / f"{name}.json").write_text(text + "\n")
    print(f"{len(results)} steps written to {FIXTURES}")


if __name__ == "__main__":
    main()
