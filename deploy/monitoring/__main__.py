"""Write the alert rules with their tests, and the dashboards: `python -m deploy.monitoring`."""

from pathlib import Path

from deploy.monitoring.alert_rules import rules_text, tests_text
from deploy.monitoring.dashboards import DASHBOARDS, dashboard_text

HERE = Path(__file__).resolve().parent


def written() -> dict[str, str]:
    """Return the text of each file by its path below this folder."""
    dashboards = {f"grafana/dashboards/{name}.json": dashboard_text(name) for name in DASHBOARDS}
    return {
        "rules/alerts.yml": rules_text(),
        "tests/alerts_test.yml": tests_text(),
        **dashboards,
    }


if __name__ == "__main__":
    for path, text in written().items():
        (HERE / path).write_text(text)
        print(path)
