"""USDC as its contract behaves: balances, used nonces, and transferWithAuthorization (EIP-3009).

It refuses in the words of the real contract, which facilitators read.
"""

from collections.abc import Callable
from dataclasses import dataclass

from eth_utils.crypto import keccak

from deploy.simulator.networks import TOKEN_VERSION, Network
from deploy.simulator.signing import CURVE_ORDER, Authorization, Domain, digest_of, recover

TRANSFER_TOPIC = f"0x{keccak(text='Transfer(address,address,uint256)').hex()}"
AUTHORIZATION_USED_TOPIC = f"0x{keccak(text='AuthorizationUsed(address,bytes32)').hex()}"


class Revert(Exception):
    """The contract refuses; the message is its reason."""


@dataclass(frozen=True)
class Log:
    """An event as the chain keeps it, all in lower-case hex."""

    address: str
    topics: tuple[str, ...]
    data: str


class Token:
    """USDC of one network. Addresses are in lower case; the chain's lock guards it."""

    def __init__(
        self, network: Network, is_signed_by: Callable[[str, bytes, bytes], bool | None]
    ) -> None:
        self.address = network.usdc.lower()
        self.domain = Domain(
            network.usdc_name, TOKEN_VERSION, network.chain_id, network.usdc.lower()
        )
        self._is_signed_by = is_signed_by
        self._balances: dict[str, int] = {}
        self._used: dict[tuple[str, bytes], int] = {}

    def balance_of(self, owner: str) -> int:
        """Return the balance of *owner*."""
        return self._balances.get(owner, 0)

    def set_balance(self, owner: str, amount: int) -> None:
        """Give *owner* exactly *amount*, out of nothing."""
        self._balances[owner] = amount

    def used_at(self, payer: str, nonce: bytes) -> int | None:
        """Return the number of the block in which the payer's *nonce* was used, None if unused."""
        return self._used.get((payer, nonce))

    def use(self, payer: str, nonce: bytes, *, block_number: int) -> Log:
        """Use up *nonce*, as a transfer or a cancellation does."""
        self._used[(payer, nonce)] = block_number
        return Log(
            self.address, (AUTHORIZATION_USED_TOPIC, padded(payer), f"0x{nonce.hex()}"), "0x"
        )

    def transfer(self, source: str, target: str, amount: int) -> Log:
        """Move *amount*. Raises Revert if *source* has less."""
        self._need_balance(source, amount)
        self._balances[source] = self.balance_of(source) - amount
        self._balances[target] = self.balance_of(target) + amount
        return transfer_log(self.address, source, target, amount)

    def check_authorization(
        self, authorization: Authorization, signature: bytes, *, timestamp: int
    ) -> None:
        """Raise Revert if the transfer would fail in a block of *timestamp*."""
        payer = authorization.payer.lower()
        if timestamp <= authorization.valid_after:
            raise Revert("FiatTokenV2: authorization is not yet valid")
        if timestamp >= authorization.valid_before:
            raise Revert("FiatTokenV2: authorization is expired")
        if authorization.key in self._used:
            raise Revert("FiatTokenV2: authorization is used or canceled")
        digest = digest_of(authorization, self.domain)
        is_signed = self._is_signed_by(payer, digest, signature)
        if not (recovers_strictly(payer, digest, signature) if is_signed is None else is_signed):
            raise Revert("FiatTokenV2: invalid signature")
        self._need_balance(payer, authorization.value)

    def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, *, timestamp: int, block_number: int
    ) -> tuple[Log, ...]:
        """Do the transfer that the payer signed. Raises Revert, and then nothing has changed."""
        self.check_authorization(authorization, signature, timestamp=timestamp)
        payer = authorization.payer.lower()
        return (
            self.use(payer, authorization.nonce, block_number=block_number),
            self.transfer(payer, authorization.to.lower(), authorization.value),
        )

    def _need_balance(self, owner: str, amount: int) -> None:
        if self.balance_of(owner) < amount:
            raise Revert("ERC20: transfer amount exceeds balance")


def transfer_log(token: str, source: str, target: str, amount: int) -> Log:
    """Return the event of an ERC-20 transfer."""
    return Log(token, (TRANSFER_TOPIC, padded(source), padded(target)), f"0x{amount:064x}")


def padded(address: str) -> str:
    """Return *address* as a 32-byte topic."""
    return f"0x{address.removeprefix('0x').rjust(64, '0')}"


def recovers_strictly(payer: str, digest: bytes, signature: bytes) -> bool:
    """Tell whether *payer* signed, refusing the twin of a signature as the contract does."""
    if len(signature) != 65:
        raise Revert("ECRecover: invalid signature length")
    if int.from_bytes(signature[32:64]) > CURVE_ORDER // 2:
        raise Revert("ECRecover: invalid signature 's' value")
    if signature[64] not in (27, 28):
        raise Revert("ECRecover: invalid signature 'v' value")
    return recover(digest, signature) == payer
