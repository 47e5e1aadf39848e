"""The strategies with a name, each a function of what is asked and the text after its colon.

The docstrings are what ``graft strategies`` prints.
"""

from __future__ import annotations

from collections.abc import Sequence

from graft.errors import RecipeError
from graft.steps import Step
from graft.strategies.asking import (
    ADAPTER_FACTOR,
    ALONE_HEAD_RATE,
    EARLY_FACTOR,
    RANDOM_HEAD_RATE,
    SOLVED_HEAD_FACTOR,
    Ask,
    flat,
    graded,
)

SCRATCH_RATE, SCRATCH_STEPS, SCRATCH_MOST_EPOCHS = 1e-3, 1500, 120
DECAY = 0.75  # of the rate from layer to layer (BEiT, MAE and their kin take 0.65 to 0.9)
MIDDLE_FACTOR = 3.0  # of the usual rate, for the stages above the frozen ones


def probe_head(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """The backbone frozen, the head solved; probe:steps trains it on augmented views, as courses do."""
    if parameter not in ("", "steps"):
        raise RecipeError(f"probe:{parameter}: probe solves the head, probe:steps trains it by steps.")
    if ask.solve_head and not parameter:
        return (ask.solve("probe"),)
    rate = ask.recipe.train.lr or RANDOM_HEAD_RATE  # nothing but the head trains, so both rates are its own
    solved = (ask.solve(),) if ask.recipe.head_init == "solved" else ()
    return *solved, ask.head_phase(rate, name="probe", epochs=ask.epochs())


def partial(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """The head and the last K stages: partial:2."""
    count = whole_number(parameter or "1", "partial", most=len(ask.stages))
    return *ask.start(), ask.phase(f"last {count}", flat(ask.stages[-count:], ask.body_rate))


def full(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """All stages, early ones at a tenth of the late ones' rate; full:1e-4: one rate for everything."""
    if not parameter:
        return *ask.start(), ask.phase(
            "all stages", graded(ask.stages, ask.body_rate * EARLY_FACTOR, ask.body_rate)
        )
    rate = positive(parameter, "full")
    ask.refuse_beside(f"full:{parameter}", "lr", "rates", "lowest_lr", "layer_decay")
    return *ask.start(), ask.phase("all stages", flat(ask.stages, rate), head=rate)


def two_phase(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """The head first (solved, or 5 epochs where it starts random), then all; :discriminative as in full."""
    if parameter not in ("", "discriminative"):
        raise RecipeError(f"two-phase:{parameter}: two-phase or two-phase:discriminative was expected.")
    lowest = ask.body_rate * (EARLY_FACTOR if parameter else 1.0)
    whole = ask.phase("all stages", graded(ask.stages, lowest, ask.body_rate))
    if ask.solve_head:
        return ask.solve(), whole
    return ask.head_phase(ALONE_HEAD_RATE, epochs=5), whole


def middle(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """Early stages frozen, the rest at three times the usual rate; middle:layer2 says where it begins."""
    names = ask.stages
    if len(names) < 2:
        raise RecipeError("middle: this backbone has one stage only, so nothing can stay frozen below.")
    first = names[len(names) // 2]
    if parameter:
        if parameter not in names:
            ask.require_stage(parameter, f"middle:{parameter}")
        first = ask.find_stages(parameter, "middle")[0]
    moving = names[names.index(first) :]
    if len(moving) == len(names):
        raise RecipeError(f"middle:{parameter}: this is the first stage, so nothing would stay frozen.")
    rates = flat(moving, ask.body_rate * MIDDLE_FACTOR)
    return *ask.start(), ask.phase(f"from {first}", rates)


def first_only(ask: Ask, _: str) -> tuple[Step, ...]:
    """Only the first stage and the head: for pictures that differ in their pixels (Lee et al., 2023)."""
    return *ask.start(), ask.phase(f"{ask.stages[0]} only", flat(ask.stages[:1], ask.body_rate))


def stages(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """Any set of stages, by names or patterns: stages:layer1,layer3 (surgical fine-tuning)."""
    chosen = ask.find_stages(parameter, "stages")
    if not chosen:
        raise RecipeError(
            f"stages: names of stages were expected, as in stages:{ask.stages[-1]}; without one nothing "
            "but the head would train, which is the strategy probe."
        )
    return *ask.start(), ask.phase(", ".join(chosen), flat(chosen, ask.body_rate))


def layer_decay(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """All stages, the rate falling by a factor per layer from the top: layer-decay:0.75."""
    factor = positive(parameter or str(DECAY), "layer-decay")
    if parameter:
        ask.refuse_beside(f"layer-decay:{parameter}", "layer_decay", "rates", "lowest_lr")
    if factor > 1:
        raise RecipeError(f"layer-decay:{parameter}: a factor above 0 and up to 1 was expected.")
    lowest = ask.body_rate * factor ** (len(ask.stages) - 1)
    return *ask.start(), ask.phase("all stages", graded(ask.stages, lowest, ask.body_rate))


def adapted_stages(stages: Sequence[str], parameter: str) -> tuple[str, ...]:
    """Those that get adapters: all, or the last K: lora:2."""
    count = whole_number(parameter, "lora", most=len(stages)) if parameter else len(stages)
    return tuple(stages[-count:])


def lora(ask: Ask, _: str) -> tuple[Step, ...]:
    """Low-rank adapters in all stages and the head, the network itself frozen; lora:2: in the last two."""
    if not ask.adapted:
        raise RecipeError("lora: this backbone has no adapters; graft.adapters.adapt puts them in.")
    head = ask.body_rate * SOLVED_HEAD_FACTOR if ask.solve_head else RANDOM_HEAD_RATE
    rates = flat(ask.adapted, ask.body_rate * ADAPTER_FACTOR)
    return *ask.start(), ask.phase("adapters", rates, head=head)


def scratch(ask: Ask, _: str) -> tuple[Step, ...]:
    """The same network from random weights, longer and with stronger augmentation."""
    epochs = ask.epochs(30, steps=SCRATCH_STEPS, most=SCRATCH_MOST_EPOCHS)
    rates = flat(ask.stages, SCRATCH_RATE)
    return (
        ask.phase(
            "from scratch",
            rates,
            head=SCRATCH_RATE,
            epochs=epochs,
            weight_decay=0.05,
            augmentation="standard",
        ),
    )


def whole_number(text: str, name: str, *, most: int) -> int:
    """A number of stages from 1 to ``most``; RecipeError, in words, for anything else."""
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise RecipeError(
            f"{name}:{text}: the number of stages to train must be a whole number from 1 to {most}, "
            f"the number of stages of this backbone, as in {name}:2."
        )
    return int(text)


def positive(text: str, name: str) -> float:
    """A number above zero; RecipeError, in words, for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RecipeError(f"{name}:{text}: a number above zero was expected, as in {name}:0.001.")
    return value
