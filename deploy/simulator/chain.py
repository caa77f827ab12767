"""A tiny chain: blocks made on demand, transactions in them or waiting, USDC, contract wallets.

Nothing happens by itself: a transaction makes its own block unless it is asked to wait, and blocks
without one are mined when told, so a test decides how many confirmations there are.
"""

import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from deploy.simulator.clock import Clock
from deploy.simulator.networks import NETWORKS, Network
from deploy.simulator.signing import Authorization, recover
from deploy.simulator.usdc import Log, Revert, Token, transfer_log

FIRST_BLOCK = 20_000_000
# Base makes a block every two seconds: what is sent now is carried out in one that much later.
BLOCK_SECONDS = 2
_CONTRACT_CODE = "0x60806040"
_DELEGATION_PREFIX = "0xef0100"
_Work = Callable[[int, int], tuple[Log, ...]]


class UnknownTransaction(LookupError):
    """No waiting transaction has this hash."""


@dataclass(frozen=True)
class Block:
    """A block's head."""

    number: int
    timestamp: int
    hash: str
    parent_hash: str


@dataclass(frozen=True)
class Transaction:
    """A transaction, waiting as long as *block* is None; *first_log* is its first log's index."""

    hash: str
    sender: str
    to: str
    data: str
    nonce: int
    work: _Work = field(repr=False)
    block: Block | None = None
    index: int = 0
    first_log: int = 0
    is_success: bool = False
    logs: tuple[Log, ...] = ()


@dataclass(frozen=True)
class Movement:
    """One Transfer event: of USDC, or of another contract that only claims to be it."""

    source: str
    target: str
    amount: int
    token: str


class Chain:
    """The state of one network. Every method is safe to call from several threads."""

    def __init__(self, clock: Clock, chain_id: int) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self.reset(chain_id)

    def reset(self, chain_id: int) -> None:
        """Begin anew, as the network *chain_id*."""
        with self._lock:
            self.network: Network = NETWORKS[chain_id]
            self.token = Token(self.network, self._wallet_accepts)
            self._wallets: dict[str, str] = {}
            self._codes = {self.token.address: _CONTRACT_CODE}
            self._transactions: dict[str, Transaction] = {}
            self._sent: dict[str, int] = {}
            parent = f"0x{secrets.token_hex(32)}"
            now = self._clock.seconds()
            self._blocks = [Block(FIRST_BLOCK, now, f"0x{secrets.token_hex(32)}", parent)]

    # What is asked

    def head(self) -> Block:
        """Return the newest block."""
        with self._lock:
            return self._blocks[-1]

    def block(self, number: int) -> Block | None:
        """Return the block with this number, None if it is not kept."""
        with self._lock:
            index = number - FIRST_BLOCK
            return self._blocks[index] if 0 <= index < len(self._blocks) else None

    def find(self, transaction_hash: str) -> Transaction | None:
        """Return a transaction, waiting or mined."""
        with self._lock:
            return self._transactions.get(transaction_hash)

    def transactions(self) -> list[Transaction]:
        """Return all transactions, in the order sent."""
        with self._lock:
            return list(self._transactions.values())

    def code_of(self, address: str) -> str:
        """Return the code at *address*, 0x if it is a plain account."""
        with self._lock:
            return self._codes.get(address, "0x")

    def wallet_accepts(self, wallet: str, digest: bytes, signature: bytes) -> bool | None:
        """Return what EIP-1271 isValidSignature says, None if no wallet is at that address."""
        with self._lock:
            return self._wallet_accepts(wallet, digest, signature)

    def check_authorization(self, authorization: Authorization, signature: bytes) -> None:
        """Raise Revert if the transfer would fail now."""
        with self._lock:
            timestamp = self._next_timestamp()
            self.token.check_authorization(authorization, signature, timestamp=timestamp)

    # What is done

    def set_balance(self, owner: str, amount: int) -> None:
        """Give *owner* exactly *amount* of USDC."""
        with self._lock:
            self.token.set_balance(owner, amount)

    def balance_of(self, owner: str) -> int:
        """Return the USDC balance of *owner*."""
        with self._lock:
            return self.token.balance_of(owner)

    def authorization_used_at(self, payer: str, nonce: bytes) -> int | None:
        """Return the block in which the nonce was used, None if it was not."""
        with self._lock:
            return self.token.used_at(payer, nonce)

    def add_wallet(self, address: str, owner: str, *, is_delegated: bool) -> None:
        """Put a contract wallet at *address* that accepts what *owner* signs (EIP-1271).

        *is_delegated*: a plain account that lends itself the wallet's code (EIP-7702).
        """
        with self._lock:
            self._wallets[address] = owner
            delegation = f"{_DELEGATION_PREFIX}{owner.removeprefix('0x')}"
            self._codes[address] = delegation if is_delegated else _CONTRACT_CODE

    def settle(
        self, authorization: Authorization, signature: bytes, *, sender: str, data: str, wait: bool
    ) -> Transaction:
        """Send transferWithAuthorization; not mined yet if *wait*. Raises Revert if it fails now.

        A waiting one may still fail when it is mined: then its receipt says so.
        """

        def work(timestamp: int, number: int) -> tuple[Log, ...]:
            return self.token.transfer_with_authorization(
                authorization, signature, timestamp=timestamp, block_number=number
            )

        with self._lock:
            self.check_authorization(authorization, signature)
            return self._send(sender, self.token.address, data, work, wait=wait)

    def transfer(
        self,
        movements: Iterable[Movement],
        *,
        sender: str,
        router: str | None,
        data: str,
        fails: bool,
        wait: bool,
    ) -> Transaction:
        """Send a transaction with these transfers, through *router* or straight to USDC.

        Who has too little is given what is missing, so that a test needs no preparation.
        """
        planned = tuple(movements)

        def work(_timestamp: int, _number: int) -> tuple[Log, ...]:
            if fails:
                raise Revert("execution reverted")
            return tuple(self._move(one) for one in planned)

        with self._lock:
            if router is not None:
                self._codes.setdefault(router, _CONTRACT_CODE)
            return self._send(sender, router or self.token.address, data, work, wait=wait)

    def use_nonce(self, payer: str, nonce: bytes) -> Transaction:
        """Use up an authorization's nonce, as the payer's cancelAuthorization does."""

        def work(_timestamp: int, number: int) -> tuple[Log, ...]:
            return (self.token.use(payer, nonce, block_number=number),)

        with self._lock:
            return self._send(payer, self.token.address, "0x5a049a70", work, wait=False)

    def mine(self, blocks: int) -> Block:
        """Mine *blocks*; what waits goes into the first of them. Return the newest."""
        with self._lock:
            waiting = [one.hash for one in self._transactions.values() if one.block is None]
            self._mine_block(waiting)
            for _ in range(blocks - 1):
                self._mine_block([])
            return self._blocks[-1]

    def drop(self, transaction_hash: str) -> None:
        """Forget a waiting transaction, as nodes do when it pays too little or is replaced.

        Raises UnknownTransaction if it is not waiting.
        """
        with self._lock:
            found = self._transactions.get(transaction_hash)
            if found is None or found.block is not None:
                raise UnknownTransaction(f"There is no waiting transaction {transaction_hash}.")
            del self._transactions[transaction_hash]

    def _wallet_accepts(self, wallet: str, digest: bytes, signature: bytes) -> bool | None:
        owner = self._wallets.get(wallet)
        if owner is None:
            return None
        # A wallet's signature may be longer than its owner's, which comes first.
        return len(signature) >= 65 and recover(digest, signature[:65]) == owner

    def _move(self, movement: Movement) -> Log:
        source, target, amount = movement.source, movement.target, movement.amount
        if movement.token != self.token.address:
            return transfer_log(movement.token, source, target, amount)
        self.token.set_balance(source, max(amount, self.token.balance_of(source)))
        return self.token.transfer(source, target, amount)

    def _send(self, sender: str, to: str, data: str, work: _Work, *, wait: bool) -> Transaction:
        nonce = self._sent.get(sender, 0)
        self._sent[sender] = nonce + 1
        # Random, not counted up: a restarted simulator must not repeat hashes a database knows.
        sent = Transaction(f"0x{secrets.token_hex(32)}", sender, to, data, nonce, work)
        self._transactions[sent.hash] = sent
        if not wait:
            self._mine_block([sent.hash])
        return self._transactions[sent.hash]

    def _mine_block(self, hashes: list[str]) -> None:
        parent = self._blocks[-1]
        timestamp = self._next_timestamp()
        block = Block(parent.number + 1, timestamp, f"0x{secrets.token_hex(32)}", parent.hash)
        log_count = 0
        for index, transaction_hash in enumerate(hashes):
            sent = self._transactions[transaction_hash]
            try:
                logs, is_success = sent.work(timestamp, block.number), True
            except Revert:
                logs, is_success = (), False
            self._transactions[transaction_hash] = replace(
                sent,
                block=block,
                index=index,
                first_log=log_count,
                is_success=is_success,
                logs=logs,
            )
            log_count += len(logs)
        self._blocks.append(block)

    def _next_timestamp(self) -> int:
        return max(self._clock.seconds() + BLOCK_SECONDS, self._blocks[-1].timestamp)
