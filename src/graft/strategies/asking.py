"""What a strategy may know, and the values that it builds its steps with.

The rates are those of the field: a pretrained body moves at 1e-5 to 1e-4, one of texts at 2e-5, a random
head at 1e-3, a solved head at three times the body's rate (after LP-FT, Kumar et al., 2022: a solved head
lets the body move little). The floor on the number of steps follows BiT (Kolesnikov et al., 2020), which
takes 500 on small data. What the recipe says about rates wins over every strategy, and is applied here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import RecipeError, quote, suggest
from graft.recipe import Recipe
from graft.schedule import geometric_rates, steps_in_epoch
from graft.steps import Rates, Solve, Train

if TYPE_CHECKING:
    from graft.evidence import Evidence

BODY_RATE, TEXT_BODY_RATE, EARLY_FACTOR = 1e-4, 2e-5, 0.1
ADAPTER_FACTOR = (
    10.0  # adapters move at so many times the body's rate ("LoRA Without Regret", Schulman, 2025)
)
RANDOM_HEAD_RATE, SOLVED_HEAD_FACTOR = 1e-3, 3.0
ALONE_HEAD_RATE = 1e-2  # a random head trained alone, before the body moves
FEWEST_STEPS, MOST_EPOCHS = 500, 40
CONTRAST_STEPS, CONTRAST_RATE = (40, 150), 5e-5  # the rate is that of texts
FEWEST_EPOCHS, FEWEST_TEXT_EPOCHS = 10, 3


@dataclass(frozen=True)
class Trying:
    """A short trial that a strategy wants before it decides.

    ``rates``: of the body. ``compares``: also with the head solved on the resting body.
    """

    rates: tuple[float, ...]
    compares: bool = False


@dataclass(frozen=True)
class Ask:
    """What a strategy may know: the recipe, the stages from input to top, and the data's size.

    ``validates``: whether there is validation data. ``evidence``: what was measured on the data, where
    the strategy decides by it. ``items``: how many there are to train on; None where a recipe is checked
    before any data is read, and ``steps_per_epoch`` then stands for nothing.
    ``adapted``: the stages with adapters. ``rates_of``: the key that the recipe's rates come from.
    """

    recipe: Recipe
    stages: tuple[str, ...]
    steps_per_epoch: int
    pretrained: bool
    validates: bool = True
    evidence: Evidence | None = None
    items: int | None = None
    takes_text: bool = False
    multi_label: bool = False
    adapted: tuple[str, ...] = ()
    rates_of: str = "train"

    @property
    def body_rate(self) -> float:
        """The usual rate of a pretrained body's topmost stage: that of pictures, or of texts."""
        return TEXT_BODY_RATE if self.takes_text else BODY_RATE

    @property
    def solvable(self) -> bool:
        """Whether the head can be solved: it is linear, and its features mean something."""
        return self.recipe.head == "linear" and self.pretrained

    @property
    def solve_head(self) -> bool:
        """Whether the head starts solved, as asked or wherever it can be."""
        wish = self.recipe.head_init
        return self.solvable if wish == "auto" else wish == "solved"

    def epochs(
        self,
        least: int | None = None,
        *,
        steps: int = FEWEST_STEPS,
        most: int = MOST_EPOCHS,
        batch_size: int | None = None,
    ) -> int:
        """The recipe's epochs, else at least ``least`` and about ``steps`` steps, within ``most``.

        ``batch_size``: of these steps, where it is not the recipe's.
        """
        if self.recipe.epochs is not None:
            return self.recipe.epochs
        if least is None:
            least = FEWEST_TEXT_EPOCHS if self.takes_text else FEWEST_EPOCHS
        per_epoch = self.steps_per_epoch
        if batch_size is not None and self.items is not None:
            per_epoch = steps_in_epoch(self.items, batch_size)
        return max(least, min(most, math.ceil(steps / per_epoch)))

    def batch_size(self, own: int, *, phase: int) -> int:
        """The recipe's where it says one, for this phase or for all, else the strategy's own."""
        given = [settings for settings in (self.recipe.phase.get(phase), self.recipe.train) if settings]
        said = [each.batch_size for each in given if "batch_size" in each.model_fields_set]
        return said[0] if said else own

    def solve(self, name: str = "head", *, batchnorm: Literal["frozen", "adaptive"] = "frozen") -> Solve:
        """The head solved on the resting body, with its statistics or those of the pictures."""
        wish = self.recipe.train
        adapts = batchnorm == "adaptive" and "batchnorm" not in wish.model_fields_set
        return Solve(name=name, class_weights=wish.class_weights, adapt=self.stages if adapts else ())

    def start(self) -> tuple[Solve, ...]:
        """The head solved first, or nothing where it starts random."""
        return (self.solve(),) if self.solve_head else ()

    def head_phase(self, rate: float, *, epochs: int, name: str = "head", **options: Any) -> Train:
        """The head trained alone, by steps."""
        rates = Rates(head=self.recipe.train.head_lr or self.table(()).get("head") or rate)
        return self._phase(name, rates, epochs, options)

    def contrast_phase(self) -> Train:
        """All stages move before there is a head, for as many epochs as asked, or about a step an item."""
        fewest, most = CONTRAST_STEPS
        steps = min(most, max(fewest, self.items or most))
        epochs = self.recipe.contrast or max(1, math.ceil(steps / self.steps_per_epoch))
        rate = CONTRAST_RATE if self.takes_text else BODY_RATE
        rates = flat(self.adapted or self.stages, rate * (ADAPTER_FACTOR if self.adapted else 1.0))
        return self.phase("contrast", rates, epochs=epochs, objective="contrast")

    def phase(
        self,
        name: str,
        rates: Mapping[str, float],
        *,
        head: float | None = None,
        epochs: int | None = None,
        solved: bool | None = None,
        **options: Any,
    ) -> Train:
        """A phase in which stages move at ``rates`` (by stage, lowest first), unless the recipe differs.

        ``head``: its rate; by default three times that of the topmost stage where the head was solved,
        else that of a random head. ``options``: what the strategy sets of ``PhaseOptions``.

        Raises:
            RecipeError: the recipe's table of rates leaves a stage out or names one twice.
        """
        resolved = self._rates(rates, head, self.solve_head if solved is None else solved)
        return self._phase(name, resolved, self.epochs() if epochs is None else epochs, options)

    def find_stages(self, text: str, where: str, *, parts: bool = False) -> tuple[str, ...]:
        """The stages that a comma-separated list of names and patterns means, in network order.

        ``parts``: what is no name and no pattern of one means all stages with it in their names.

        Raises:
            RecipeError: a name that no stage has.
        """
        wanted = [part.strip() for part in text.split(",") if part.strip()]
        if parts:
            wanted = [
                part if self._known(part) else f"*{part}*" if self._known(f"*{part}*") else part
                for part in wanted
            ]
        for part in wanted:
            self.require_stage(part, where)
        return tuple(name for name in self.stages if any(fnmatchcase(name, part) for part in wanted))

    def table(self, stages: Sequence[str]) -> dict[str, float]:
        """The recipe's own rates of ``stages`` and the head, each named exactly once.

        Raises:
            RecipeError: a stage that is left out, named twice, or is none.
        """
        table = self.recipe.train.rates or {}
        for pattern in table:
            if pattern != "head":
                self.require_stage(pattern, f"{self.rates_of}.rates")
        found = {"head": table["head"]} if "head" in table else {}
        for stage in stages if table else ():
            fitting = [pattern for pattern in table if pattern != "head" and fnmatchcase(stage, pattern)]
            if not fitting:
                raise RecipeError(
                    f"{self.rates_of}.rates: the stage {quote(stage)} trains, but no entry covers it."
                )
            if len(fitting) > 1:
                both = " and ".join(map(repr, fitting))
                raise RecipeError(
                    f"{self.rates_of}.rates: the entries {both} overlap: both cover "
                    f"the stage {quote(stage)}."
                )
            found[stage] = table[fitting[0]]
        return found

    def refuse_beside(self, strategy: str, *settings: str) -> None:
        """Raises RecipeError where a setting of train says what the strategy's parameter says."""
        for name in settings:
            if getattr(self.recipe.train, name) is not None:
                raise RecipeError(
                    f"{strategy} and {self.rates_of}.{name} both say the rates of stages; leave one of "
                    "them out."
                )

    def require_stage(self, pattern: str, where: str) -> None:
        """Raises RecipeError where no stage has this name or fits this pattern."""
        if not self._known(pattern):
            raise RecipeError(
                f"{where}: this backbone has no stage {quote(pattern)}.{suggest(pattern, self.stages)} "
                f"Its stages, from input to top: {', '.join(self.stages)}."
            )

    def _known(self, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in self.stages)

    def _phase(self, name: str, rates: Rates, epochs: int, options: dict[str, Any]) -> Train:
        batchnorm = "frozen" if self.pretrained else "train"
        start = {"name": name, "rates": rates, "epochs": epochs, "batchnorm": batchnorm}
        if self.takes_text:  # which nothing changes at random
            options = {**options, "augmentation": "none", "flip": False}
        return Train.model_validate(start | options)

    def _rates(self, planned: Mapping[str, float], head: float | None, solved: bool) -> Rates:
        wish, stages = self.recipe.train, list(planned)
        table = self.table(stages)
        if table:
            moving = {stage: table[stage] for stage in stages}
        else:
            top = planned[stages[-1]]
            factor = 1.0 if wish.lr is None else wish.lr / top
            head = None if head is None else head * factor
            moving = dict(zip(stages, self._graded(planned, factor), strict=True))
        fastest = moving[stages[-1]]
        own = fastest * SOLVED_HEAD_FACTOR if solved else max(RANDOM_HEAD_RATE, fastest)
        return Rates(head=wish.head_lr or table.get("head") or head or own, stages=moving)

    def _graded(self, planned: Mapping[str, float], factor: float) -> list[float]:
        """The planned rates, scaled; or as the recipe grades them, from the topmost stage's."""
        wish, rates = self.recipe.train, [rate * factor for rate in planned.values()]
        lowest = wish.lowest_lr
        if wish.layer_decay is not None:
            lowest = rates[-1] * wish.layer_decay ** (len(rates) - 1)
        return rates if lowest is None else geometric_rates(lowest, rates[-1], len(rates))


def flat(stages: Sequence[str], rate: float) -> dict[str, float]:
    """The same rate for every stage."""
    return dict.fromkeys(stages, rate)


def graded(stages: Sequence[str], lowest: float, top: float) -> dict[str, float]:
    """Rates from ``lowest`` to ``top``, geometric between."""
    return dict(zip(stages, geometric_rates(lowest, top, len(stages)), strict=True))
