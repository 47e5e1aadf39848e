"""What people are told of plans and results, in words: for the terminal and for reports alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from graft.errors import shorten
from graft.plan import Phase, Plan
from graft.progress import percent
from graft.steps import Calibrate, Select, Solve, Train

OUT_OF_FOLD = "training, out of fold"


def phase_lines(phase: Any, plan: Plan) -> list[str]:
    if isinstance(phase, Solve):
        return _solve_lines(phase, plan)
    if isinstance(phase, Select):
        return _select_lines(phase, plan)
    if isinstance(phase, Calibrate):
        return ["probabilities by one temperature, fitted on the validation data"]
    return _steps_lines(phase, plan)


def size_of(count: int) -> str:
    return f"{count / 2**10:,.0f} KiB" if count < 2**20 else f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _select_lines(step: Select, plan: Plan) -> list[str]:
    names = ["the best epoch", "the last"]
    last = next(phase.train for phase in reversed(plan.phases) if isinstance(phase, Phase))
    if last.ema:
        names.append("the running average")
    moving = [
        number
        for number, phase in enumerate(plan.phases)
        if isinstance(phase, Phase) and phase.train.stages and phase.train.objective == "labels"
    ]
    if moving and moving[0]:  # before it, the head was solved or trained
        names.append("the start and blends with it" if step.alphas else "the start")
    if step.checkpoints > 1:
        names.append(f"the average of the best {step.checkpoints}")
    judged: str = step.score
    if judged == "loss" and any(isinstance(phase, Calibrate) for phase in plan.phases):
        judged = "loss (each at the temperature that suits it)"
    return [f"on the validation data, by {judged}: {', '.join(names)}"]


def _solve_lines(step: Solve, plan: Plan) -> list[str]:
    head = plan.parameters - sum(stage.parameters for stage in plan.stages)
    return [
        f"solves the head: {_share(head, plan)}; every stage frozen",
        *_adaptation(step.adapt, plan),
        f"one pass of all training {'texts' if plan.takes_text else 'pictures'}, as they are",
        f"best of up to {len(step.strengths)} strengths by {step.folds}-fold cross-validation",
    ]


def _steps_lines(phase: Phase, plan: Plan) -> list[str]:
    train = phase.train
    decay = f", decay {train.weight_decay:g}" if train.weight_decay else ""
    extras = [f"{words} {value:g}" for words, value in _extras(train).items() if value]
    extras += [words for words, asked in _balances(train).items() if asked == "balanced"]
    stopping = f", stops after {train.patience} without gain" if train.patience and plan.data.val else ""
    aim = ", so that features of one label come together" if train.objective == "contrast" else ""
    return [
        *_adaptation(train.adapt, plan),
        f"trains {_trains(phase, plan)}: {_share(sum(group.count for group in phase.groups), plan)}{aim}",
        f"rates: {_rates(phase)}",
        f"{train.optimizer}{decay}, schedule {_schedule(train)}",
        *([] if plan.takes_text else [_of_pictures(train)]),
        *([f"with {', '.join(extras)}"] if extras else []),
        f"{count_of(phase.steps, 'step')} ({count_of(train.epochs, 'epoch')}, batches of "
        f"{train.batch_size}), "
        f"{phase.warmup_steps} of warm-up{stopping}",
    ]


def _of_pictures(train: Train) -> str:
    how = train.augmentation
    if isinstance(how, tuple):
        return f"batch-norm {_batchnorm(train)}; augmentation {', '.join(how)}"
    mirrored = "" if train.flip or how == "none" else " without mirroring"
    return f"batch-norm {_batchnorm(train)}; augmentation {how}{mirrored}"


def _trains(phase: Phase, plan: Plan) -> str:
    stages = phase.train.stages
    head = [] if phase.train.objective == "contrast" else ["head"]
    moving = [f"all {len(stages)} stages"] if len(stages) == len(plan.stages) else []
    moving = moving or ([name_some(stages)] if stages else [])
    if plan.adapters is not None:
        moving = [f"adapters in {which}" for which in moving]
    return ", ".join([*head, *moving])


def _rates(phase: Phase) -> str:
    """Each stage's rate from the top; stages in a row with the same one together."""
    rates = phase.train.rates
    runs: list[tuple[list[str], float]] = []
    for stage, rate in reversed(rates.stages.items()):
        if runs and runs[-1][1] == rate:
            runs[-1][0].append(stage)
        else:
            runs.append(([stage], rate))
    shown = [f"{_range(names)} {rate:.3g}" for names, rate in runs]
    head = [] if phase.train.objective == "contrast" else [f"head {rates.head:.3g}"]
    return ", ".join([*head, *shown])


def _range(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _adaptation(stages: tuple[str, ...], plan: Plan) -> list[str]:
    if not stages:
        return []
    which = "all stages" if len(stages) == len(plan.stages) else ", ".join(stages)
    return [f"first gives the batch-norms of {which} the statistics of the training pictures"]


def _schedule(train: Train) -> str:
    if train.schedule == "step":
        return f"step (times {train.drop_factor:g} every {train.drop_epochs} epochs)"
    return train.schedule


def _batchnorm(train: Train) -> str:
    if isinstance(train.batchnorm, str):
        return train.batchnorm
    return ", ".join(f"{mode} in {stage}" for stage, mode in train.batchnorm.items())


def _extras(train: Train) -> dict[str, float]:
    return {
        "label smoothing": train.label_smoothing,
        "focal loss": train.focal,
        "MixUp": train.mixup,
        "CutMix": train.cutmix,
        "stochastic depth": train.drop_path or 0.0,
        "L2-SP": train.l2sp,
        "running average": train.ema,
    }


def _balances(train: Train) -> dict[str, str]:
    return {"balanced loss": train.class_weights, "balanced sampling": train.sampling}


def _share(count: int, plan: Plan) -> str:
    return f"{count:,} parameters ({100 * count / plan.parameters:.1f} %)"


def name_some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" … ({len(names)})" if len(names) > most else ""
    return ", ".join(map(shorten, names[:most])) + more


def finding_lines(findings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the doctor found in the course of training, a line each."""
    for each in findings:
        yield f"Doctor  {each['id']}: {each['measured']}. {each['why']} {each['cure']}"


def kept_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Whose weights were kept after each phase, what was chosen in the end, and by how much."""
    ends, selected = list(metrics.get("phases", ())), metrics.get("selected")
    for end in ends[:-1] if selected else ends:
        yield f"Kept  {end['phase']}: {_kept_epoch(end)}"
    if selected:
        yield f"Kept  {ends[-1]['phase']}: {_chosen(selected, ends[-1])}"
    if ends and not any(place != OUT_OF_FOLD for place, _ in scores_of(metrics)):
        yield (
            "Unmeasured  every label trained, so none is left to tell how good the result is; measure it "
            "on others: graft evaluate RUN DATA"
        )
    found = metrics.get("calibrated")
    if found:
        few = ", which so few hardly tell" if found["n"] < 100 else ""
        yield (
            f"Calibrated  temperature {found['temperature']:.2f}: calibration error on {found['n']} "
            f"validation items {percent(found['error_before'])}, now {percent(found['error_after'])}{few}"
        )


def _kept_epoch(end: dict[str, Any]) -> str:
    kept, epochs = end["kept_epoch"], end["epochs"]
    if end.get("kept") == "average":
        return f"the running average of the weights over {count_of(epochs, 'epoch')}"
    if kept is None and end["phase"] == "contrast":
        return f"the last of {count_of(epochs, 'epoch')}, before there was a head to judge by"
    if kept is None:
        return f"the last of {count_of(epochs, 'epoch')}, because there was no validation data"
    if kept == 0:
        return f"the start, because no epoch of {epochs} was better on the validation data"
    return f"epoch {kept} of {epochs}, the best on the validation data"


def count_of(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _chosen(selected: dict[str, Any], end: dict[str, Any]) -> str:
    """The winner of the choice, with its lead over the best epoch, or why that was kept."""
    winner, candidates = selected["winner"], selected["candidates"]
    if winner == "best":
        others = len(candidates) - 1
        return f"{_kept_epoch(end)}; none of {others} other candidates was better by a standard error"
    found = candidates[winner]
    what = "loss" if selected["by"] == "loss" else "share of wrong decisions"
    return (
        f"the candidate {winner!r}: its {what} on the validation data is {found['gain']:.3g} ± "
        f"{found['gain_error']:.2g} lower than that of the best epoch "
        f"({selected['best_epoch']} of {end['epochs']})"
    )


def scores_of(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    names = {
        "probe": OUT_OF_FOLD,
        "validation": "validation",
        "test": "test",
    }
    for key, name in names.items():
        if metrics.get(key, {}).get("accuracy") is not None:
            yield name, metrics[key]
