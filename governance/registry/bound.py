"""What a version is bound to, as it lies in the files now.

Contract: reads and never writes. Every relative path starts from the settings' folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from governance.cards import card as cards
from governance.errors import CardError, RegistryInputError, RegistryRefused
from governance.policy.snapshot import PolicySnapshot
from governance.registry.digests import file_digest, tree
from governance.registry.events import Binding, Sources
from governance.registry.machine import Standing
from governance.registry.requirements import Read, RiskClass


class Now:
    """What is in force and in the files now.

    Args:
        policy: the policy in force.
        requirements: reads the file of requirements; raises RegistryInputError.
        base: the folder that relative paths start from.
    """

    def __init__(self, policy: PolicySnapshot, requirements: Callable[[], Read], base: Path) -> None:
        self.policy = policy
        self.requirements = requirements
        self._base = base

    def sources(self, files: Path, card: Path, evidence: Mapping[str, Path]) -> Sources:
        """Where the parts lie, as it is stored."""
        named = {name: self._written(path) for name, path in evidence.items()}
        return Sources(self._written(files), self._written(card), named)

    def changed(self, standing: Standing) -> list[str]:
        """The parts of a version's binding that are no longer what they were, `files` first; those missing, too."""
        if standing.binding is None or standing.sources is None:
            return []
        then, sources, found = standing.binding, standing.sources, []
        parts: list[tuple[str, str, Callable[[], str]]] = [
            ("files", then.files, lambda: tree(self.path(sources.files))),
            ("card", then.card, lambda: file_digest(self.path(sources.card))),
        ]
        for name, path in sources.evidence.items():
            parts.append((f"evidence {name}", then.evidence[name], lambda path=path: file_digest(self.path(path))))  # type: ignore[misc]
        if then.requirements:
            parts.append(("requirements", then.requirements, lambda: self.requirements().digest))
            parts.append(("policy", then.policy, lambda: self.policy.hash))
        for name, digest, look in parts:
            try:
                same = look() == digest
            except RegistryInputError:
                same = False
            if not same:
                found.append(name)
        return found

    def bound(self, sources: Sources) -> Binding:
        """The digests of files, card and evidence. Raises RegistryInputError."""
        return Binding(
            tree(self.path(sources.files)),
            file_digest(self.path(sources.card)),
            {name: file_digest(self.path(path)) for name, path in sorted(sources.evidence.items())},
        )

    def risk_class(self, sources: Sources, read: Read) -> tuple[cards.Card, str, RiskClass]:
        """The card, its rating, and what is asked for. Raises RegistryInputError, RegistryRefused."""
        path = self.path(sources.card)
        try:
            card = cards.read(path)
        except CardError as error:
            raise RegistryInputError(str(error)) from None
        if card.risk.rating is None:
            raise RegistryRefused(f"{path}: the card has no `risk.rating`, which says what is asked for")
        wanted = read.requirements.classes.get(card.risk.rating)
        if wanted is None:
            raise RegistryRefused(f"the requirements say nothing of models whose risk is {card.risk.rating}")
        return card, card.risk.rating, wanted

    def path(self, written: str) -> Path:
        """Of a stored one."""
        return self._base / written

    def _written(self, path: Path) -> str:
        whole = path.absolute()
        return str(whole.relative_to(self._base)) if whole.is_relative_to(self._base) else str(whole)
