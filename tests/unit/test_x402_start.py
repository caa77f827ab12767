"""What importing the package does to a process: little, and nothing that stays."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = "chain claims facilitator networks signatures terms verify wire"
IMPORT_ALL = "\n".join(f"import shared.payments.x402.{part}" for part in PARTS.split())


def in_a_new_process(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("slow", ["eth_account", "eth_utils", "py_ecc", "web3", "httpx"])
def test_a_process_that_takes_no_payments_imports_nothing_slow(slow: str) -> None:
    assert in_a_new_process(f"{IMPORT_ALL}\nprint({slow!r} in sys.modules)") == "False"


DEEP = """
shared.payments.x402.signatures.prepare()
from shared.payments.x402.values import strict_json
try:
    strict_json("[" * 200_000)
except ValueError as refused:
    print("eth_account" in sys.modules, refused)
"""


def test_deep_json_does_not_end_a_process_that_has_imported_eth_account() -> None:
    assert in_a_new_process(f"{IMPORT_ALL}\n{DEEP}") == "True nested too deeply"


def test_a_checksum_needs_no_more_than_eth_utils() -> None:
    address = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    code = f"from shared.payments.x402.values import is_misspelled\nis_misspelled({address!r})"
    said = in_a_new_process(f"{code}\nprint('py_ecc' in sys.modules, sys.getrecursionlimit())")
    assert said == "False 1000"
