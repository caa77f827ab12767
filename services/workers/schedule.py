"""Beat's schedule: wake-ups for rows that nobody took, and for what time has made due."""

from typing import Any

from shared.messaging import TaskName
from shared.operations.ticks import BEAT

# Seconds between two wake-ups. Two beats do no harm: the work itself takes locks.
EVERY_SECONDS = {
    TaskName.DRAIN_WEBHOOKS: 2,
    TaskName.POLL_PAYMENTS: 30,
    TaskName.SEARCH_PAYMENTS: 60,
    TaskName.WATCH_SETTLEMENTS: 5,
    TaskName.EXPIRE_HOLDS: 10,
    TaskName.EXPIRE_LOTS: 30,
    TaskName.ROLL_UP_REVENUE: 10,
    TaskName.RETRY_DEAD_LETTERS: 15,
    TaskName.SWEEP_KEYS: 3600,
    TaskName.SWEEP_QUOTES: 3600,
    TaskName.ACTIVATE_RULES: 60,
    TaskName.EXPIRE_MINT_PROPOSALS: 60,
    TaskName.GRANT_LISTS: 2,
    TaskName.EXPIRE_CAMPAIGNS: 30,
    TaskName.EVALUATE_ALERTS: 15,
    TaskName.DELIVER_WEBHOOKS: 2,
    TaskName.WATCH_ACCOUNTS: 60,
    TaskName.RECONCILE_CACHE: 300,
    TaskName.RECONCILE_DAILY: 60,
}

# Beat's own heartbeat: no worker polls for it, so it tells that wake-ups are sent and taken.
BEAT_TASK = "maintenance.note_beat"
_BEAT_SECONDS = 15
EXPECTED_TICKS = {
    **{name.value: every for name, every in EVERY_SECONDS.items()},
    BEAT: _BEAT_SECONDS,
}


def beat_schedule() -> dict[str, dict[str, Any]]:
    """Return the schedule; a wake-up that nobody took is void before the next but one."""
    planned = [(name.value, name.queue, seconds) for name, seconds in EVERY_SECONDS.items()]
    planned.append((BEAT_TASK, "maintenance", _BEAT_SECONDS))
    return {
        task: {
            "task": task,
            "schedule": seconds,
            "options": {"queue": queue, "expires": 2 * seconds},
        }
        for task, queue, seconds in planned
    }
