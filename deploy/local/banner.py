"""What `make up` prints once all is ready: addresses, tokens, and commands to paste."""

import shlex
import subprocess
import sys

from deploy.local.lock import StackError
from deploy.local.secrets import replace_private
from deploy.local.services import METRICS_PORT
from deploy.local.stack import ROOT, Stack

ACCOUNT = "acct-demo"
TOKEN_SECONDS = 30.0

TEXT = """
The billing system is ready.

  API        {api}
  Webhooks   {webhooks}/api/billing/webhooks/nowpayments
  Flower     {flower}   (user admin; the password is in {data}/local.env)
  Provider   {provider}
  Database   {database}
  Metrics    {metrics}
  Logs       {logs}/*.log

Paste into another terminal:

export API={api} ACCOUNT={account} JSON='Content-Type: application/json'
export ADMIN_TOKEN={admin}
export MEMBER_TOKEN={member}
export S2S_TOKEN={s2s}

# a new one after 300 s:
export S2S_TOKEN=$({new_s2s})

# an account, and 5 USD for it
curl -sS -w '\\n' "$API/admin/billing/accounts" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H "$JSON" -d '{{"entityType": "community", "entityId": "demo", "accountId": "{account}"}}'
curl -sS -w '\\n' "$API/admin/billing/accounts/$ACCOUNT/mint" \\
  -H "Authorization: Bearer $ADMIN_TOKEN" -H "Idempotency-Key: mint-$(date +%s)" \\
  -H "$JSON" -d '{{"amountMicro": "5000000", "sourceType": "grant", "description": "To try it"}}'

# hold 1 USD, charge 0.40, look
RESERVATION=$(curl -sS "$API/api/internal/reserve" -H "Authorization: Bearer $S2S_TOKEN" \\
  -H "$JSON" -d '{{"accountId": "{account}", "estimatedCostMicro": "1000000"}}' | tee /dev/stderr |
  {python} -c 'import json, sys; print(json.load(sys.stdin)["reservationId"])')
curl -sS -w '\\n' "$API/api/internal/finalize" -H "Authorization: Bearer $S2S_TOKEN" \\
  -H "$JSON" -d '{{"reservationId": "'"$RESERVATION"'", "actualCostMicro": "400000"}}'
curl -sS -w '\\n' "$API/api/billing/balance" -H "Authorization: Bearer $MEMBER_TOKEN"

# the operator's command, on this system
(set -a; . {environment}; cd {root} && {python} -m shared.cli.main ledger verify)

Ctrl-C stops everything.
"""


def banner(stack: Stack) -> str:
    """Return the text. Raises StackError if a token cannot be made.

    Also writes `run/stack.env`, the stack's settings for a shell (readable by its owner only).
    """
    environment = stack.run_directory / "stack.env"
    lines = [f"{name}={shlex.quote(stack.env[name])}\n" for name in _own_settings(stack)]
    replace_private(environment, "".join(lines))
    s2s, admin, member = _tokens(stack, ["s2s"], ["admin"], ["member", ACCOUNT])
    python = shlex.quote(sys.executable)
    database = stack.env["DATABASE_URL"]
    return TEXT.format(
        **{name: _address(stack, name) for name in ("api", "webhooks", "flower")},
        data=stack.directory,
        provider=stack.env["NOWPAYMENTS_API_URL"],
        database=database if database.startswith("sqlite") else "PostgreSQL",  # has a password
        logs=stack.log_directory,
        metrics="\n             ".join(_metrics(stack)),
        account=ACCOUNT,
        admin=admin,
        member=member,
        s2s=s2s,
        new_s2s=(
            f"set -a; . {shlex.quote(str(environment))}; "
            f"cd {shlex.quote(str(ROOT))} && {python} -m shared.cli.main token s2s"
        ),
        python=python,
        environment=shlex.quote(str(environment)),
        root=shlex.quote(str(ROOT)),
    )


def _own_settings(stack: Stack) -> list[str]:
    """Return the names of the settings that are ours, of all that the stack's env may hold."""
    prefixes = ("ARRAKIS_", "BILLING_", "FEATURE_", "NOWPAYMENTS_", "PAYMENTS_", "X402_")
    others = {"DATABASE_URL", "REDIS_URL"}
    return sorted(name for name in stack.env if name.startswith(prefixes) or name in others)


def _address(stack: Stack, name: str) -> str:
    return f"http://127.0.0.1:{stack.processes[name].port}"


def _metrics(stack: Stack) -> list[str]:
    """Return where Prometheus finds each process that counts something."""
    served = {name: stack.processes[name].port for name in ("api", "webhooks")}
    own = {
        name: process.env[METRICS_PORT]
        for name, process in stack.processes.items()
        if METRICS_PORT in process.env
    }
    return [f"http://127.0.0.1:{port}/metrics  {name}" for name, port in (served | own).items()]


def _tokens(stack: Stack, *kinds: list[str]) -> list[str]:
    """Make a token of each kind with the operator's command, all at the same time."""
    environment = stack.environment()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "shared.cli.main", "token", *kind],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in kinds
    ]
    tokens = []
    try:
        for kind, child in zip(kinds, running, strict=True):
            token, error = child.communicate(timeout=TOKEN_SECONDS)
            if child.returncode != 0 or not token.strip():
                raise StackError(f"`arrakis token {' '.join(kind)}` failed:\n{error or token}")
            tokens.append(token.strip().splitlines()[-1])
    finally:
        for child in running:
            child.kill()
            child.communicate()
    return tokens
