"""Known mistakes of recipes, seen in the plan that they come to. What auto writes trips none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from graft.backbones import rebuild
from graft.backbones.contract import Backbone, Preprocess
from graft.data.items import Splits
from graft.data.validation import items_of_median_class
from graft.diagnosis.findings import Finding, found
from graft.plan import Phase, Plan
from graft.recipe import Recipe
from graft.steps import Solve

HIGH, HIGH_TEXT, HIGH_SGD = 2e-3, 2e-4, 0.1  # of pretrained stages, above which they are wiped out
EVEN = 1e-3  # one rate for head and body from which on that is a mistake
SMALL_BATCH = 16  # below which statistics of a batch are noise
TINY = 50  # items of the median class below which a random head over a moving body is lost: with 10 even
# a loop that trains the head first is far behind a probe, with 100 ahead (benchmarks/results)
FEW_STEPS, FEW_TEXT_STEPS, MANY_EPOCHS, MANY_TEXT_EPOCHS = 500, 100, 20, 5
WIDE = 50  # items of the median class that an mlp head wants
FEW_PICTURES = 10_000
RESIZED = 2.0  # times the size of the pretraining, up or down


@dataclass(frozen=True)
class Written:
    """A recipe and the plan that it comes to on this data."""

    recipe: Recipe
    plan: Plan
    backbone: Backbone
    splits: Splits

    @property
    def phases(self) -> list[Phase]:
        """Those that move something for the sake of labels."""
        every = [phase for phase in self.plan.phases if isinstance(phase, Phase)]
        return [phase for phase in every if phase.train.objective == "labels"]

    @property
    def moving(self) -> list[Phase]:
        """Those in which stages train, their own weights and not adapters."""
        return [phase for phase in self.phases if phase.train.stages and self.plan.adapters is None]

    @property
    def per_class(self) -> float:
        return items_of_median_class(self.splits.train, self.splits.task.classes)

    @property
    def solved(self) -> bool:
        return any(isinstance(phase, Solve) for phase in self.plan.phases)


def high_rate(seen: Written) -> Iterator[Finding]:
    if not seen.backbone.source.pretrained:
        return
    for phase in seen.moving:
        bound = HIGH_TEXT if seen.plan.takes_text else HIGH
        bound = HIGH_SGD if phase.train.optimizer == "sgd" else bound
        fastest = max(phase.train.rates.stages.values())
        if fastest > bound:
            yield found(
                "recipe.high-rate",
                "error",
                f"Pretrained stages move at {fastest:g} in phase {phase.train.name!r} "
                f"({phase.train.optimizer})",
                why="A few such steps wipe out what the pretraining knew.",
                cure=f"At most about {bound:g}; graft lr --sweep shows what suits.",
                fix={"train.lr": bound / 10},
            )
            return


def even_rate(seen: Written) -> Iterator[Finding]:
    if not seen.backbone.source.pretrained:
        return
    for phase in seen.moving:
        rates = {*phase.train.rates.stages.values(), phase.train.rates.head}
        if len(rates) == 1 and max(rates) >= EVEN and len(phase.train.stages) > 1:
            yield found(
                "recipe.even-rate",
                "warning",
                f"One rate of {max(rates):g} for the head and every stage in phase {phase.train.name!r}",
                why="What suits a new head is too much for layers that know something already.",
                cure="Leave the rates to the strategy, or grade them: train.lowest_lr, train.layer_decay.",
                fix={"train.lowest_lr": max(rates) / 100},
            )
            return


def batch_statistics(seen: Written) -> Iterator[Finding]:
    for phase in seen.phases:
        if phase.train.following and phase.train.batch_size // seen.plan.numerics.processes < SMALL_BATCH:
            yield found(
                "recipe.small-batches",
                "warning",
                f"Batch-norm statistics follow batches of {phase.train.batch_size} in phase "
                f"{phase.train.name!r}",
                why="Means of so few pictures are noise, and evaluation then uses other ones.",
                cure="Freeze or adapt them (train.batchnorm), or take batches of 32 or more.",
                fix={"train.batchnorm": "frozen" if seen.backbone.source.pretrained else "adaptive"},
            )
            return


def augmentation(seen: Written) -> Iterator[Finding]:
    items = len(seen.splits.train)
    if seen.plan.takes_text or items >= FEW_PICTURES:
        return
    for phase in seen.moving:
        if phase.train.augmentation == "none" and phase.train.epochs > 5:
            yield found(
                "recipe.no-augmentation",
                "warning",
                f"{items} pictures are seen {phase.train.epochs} times without any change in phase "
                f"{phase.train.name!r}",
                why="The network learns the pictures by heart in place of the classes.",
                cure="train.augmentation=light at least; standard where pictures differ in colour and "
                "angle.",
                fix={"train.augmentation": "light"},
            )
            return


def tiny_data(seen: Written) -> Iterator[Finding]:
    if seen.per_class >= TINY or seen.solved or not seen.backbone.source.pretrained:
        return
    for phase in seen.phases[:1]:  # where the head trains alone before, it has learnt something
        if len(phase.train.stages) == len(seen.plan.stages) and seen.plan.adapters is None:
            yield found(
                "recipe.tiny-data",
                "warning",
                f"Everything trains under a random head on {seen.per_class:g} items of the median class",
                why="The random head's gradients wreck the features before it has learnt anything.",
                cure="Solve the head first (leave head_init out), or train the head alone: --strategy "
                "probe.",
                fix={"strategy": "probe", "head_init": "auto"},
            )
            return


def length(seen: Written) -> Iterator[Finding]:
    if not seen.moving:
        return
    main = seen.moving[-1]
    texts = seen.plan.takes_text
    few, many = (FEW_TEXT_STEPS, MANY_TEXT_EPOCHS) if texts else (FEW_STEPS, MANY_EPOCHS)
    total = sum(phase.steps for phase in seen.moving)
    epochs = sum(phase.train.epochs for phase in seen.moving)
    if total < few and epochs < many and seen.plan.strategy != "auto":
        wanted = -(-few // main.steps_per_epoch)
        yield found(
            "recipe.few-steps",
            "note",
            f"The body moves for {total} steps in {epochs} epochs",
            why="With small rates so few steps hardly change it (BiT takes 500 on small data).",
            cure=f"More epochs, up to {min(wanted, 40)} here, or leave the length to the strategy.",
            fix={"epochs": min(wanted, 40)},
        )


def head(seen: Written) -> Iterator[Finding]:
    if seen.recipe.head == "mlp" and seen.per_class < WIDE:
        yield found(
            "recipe.wide-head",
            "note",
            f"A head with a hidden layer, for {seen.per_class:g} items of the median class",
            why="It fits anything; and it cannot be solved, so training begins with a random one.",
            cure="Take the linear head.",
            fix={"head": "linear"},
        )


def size(seen: Written) -> Iterator[Finding]:
    intake = seen.backbone.preprocess
    asked = seen.recipe.data.size
    if not isinstance(intake, Preprocess) or asked is None or not seen.backbone.source.pretrained:
        return
    source = seen.backbone.source
    if source.library == "plain":
        return
    unasked = rebuild(replace(source, options={**source.options, "size": None})).preprocess
    assert isinstance(unasked, Preprocess)
    own = min(unasked.size)
    if max(asked / own, own / asked) > RESIZED:
        yield found(
            "recipe.input-size",
            "warning",
            f"Pictures of {asked} pixels, and the weights were trained with {own}",
            why="Filters look for things of the size that they had in the pretraining.",
            cure=f"Stay within {own // 2} to {2 * own} pixels, or take weights of that size.",
        )


def normalisation(seen: Written) -> Iterator[Finding]:
    intake = seen.backbone.preprocess
    if not isinstance(intake, Preprocess) or not seen.backbone.source.pretrained:
        return
    if seen.recipe.data.statistics == "data" and intake.channels == 3:
        yield found(
            "recipe.normalisation",
            "warning",
            "Pictures are normalised by their own mean and deviation, with weights that bring theirs",
            why="The first layer then sees other numbers than it was trained on.",
            cure="data.statistics=auto takes the weights' own.",
            fix={"data.statistics": "auto"},
        )


CHECKS: tuple[Callable[[Written], Iterator[Finding]], ...] = (
    high_rate,
    even_rate,
    batch_statistics,
    augmentation,
    tiny_data,
    length,
    head,
    size,
    normalisation,
)
