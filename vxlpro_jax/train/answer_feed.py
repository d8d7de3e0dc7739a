"""Batches of questions over composed videos for the "answers" stages, and their marking on held-out groups.

Source: ours (docs/tiny.md).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vxlpro_jax.data.batching import RowShapes, build_rows
from vxlpro_jax.data.conversation import question_prompt, stamp_ids
from vxlpro_jax.data.synthetic_guess import GuessRows
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS
from vxlpro_jax.data.synthetic_rows import BankIndex, ComposedRow, compose_row
from vxlpro_jax.data.tokenizer import TextTokenizer
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.train.stages import AnswerBatch
from vxlpro_jax.types import Selection

TEXT_LEN = 40  # the longest prompt with its answer; build_rows says so when a new template outgrows it


@dataclass(frozen=True)
class RowMix:
    """One kind of batch: rows per step, groups per row, rows kept after selection at most, and how often it is drawn.

    drop: share of rows whose budget is drawn at random below what they need, so that the selector has to choose.
    when_share: share of questions about a time, which need more examples than the others.
    guess_share: share of rows that do not hold the answer (data/synthetic_guess.py); settled_guess: see GuessRows.draw.
    """

    num_groups: int
    batch_size: int
    length: int
    weight: float
    drop: float
    when_share: float
    guess_share: float
    settled_guess: bool


class AnswerFeed:
    """Makes batches from the groups of a bank and the index over it.

    features: float16 [N, u, g, g, E], for each group of the bank the u outputs of the DTS, or int32 [N, 1, words], what
    it shows in words. A model whose groups are shorter than the bank's has several outputs, each with its own time.
    guess_rows draws the rows of a mix's guess_share; a feed without it has none.
    """

    def __init__(
        self,
        features: np.ndarray,
        index: BankIndex,
        tokenizer: TextTokenizer,
        config: VideoXLProConfig,
        guess_rows: GuessRows | None = None,
    ):
        self.features, self.index, self.config, self.guess_rows = features, index, config, guess_rows
        self.tokenize = functools.lru_cache(maxsize=None)(tokenizer.encode)

    def batches(self, mixes: dict[str, RowMix], seed: int) -> Callable[[int], AnswerBatch]:
        """step -> a batch of one of the mixes, drawn by weight."""
        choices = list(mixes.values())
        weights = np.array([mix.weight for mix in choices])

        def make(step: int) -> AnswerBatch:
            rng = np.random.default_rng([seed, step])
            return self.draw(rng, choices[rng.choice(len(choices), p=weights / weights.sum())])

        return make

    def draw(self, rng: np.random.Generator, mix: RowMix) -> AnswerBatch:
        """A batch of freshly composed rows."""
        rows = [self._row(rng, mix) for _ in range(mix.batch_size)]
        prompts = [question_prompt(row.question, self.tokenize, answer=row.answer) for row in rows]
        parts = self.features.shape[1]
        times = [divided_times(row.times_s, parts).tolist() for row in rows]
        stamps = [[stamp_ids(of_row, self.config.stamps, self.tokenize)] for of_row in times]
        stamp_len = self.config.stamps.num_tokens
        per_group, num_groups = self.config.tokens_per_group, parts * mix.num_groups
        shapes = RowShapes(TEXT_LEN, num_groups, stamp_len, TEXT_LEN + num_groups * (stamp_len + per_group))
        batch = build_rows(prompts, stamps, per_group, self.config.selector.selector_query, shapes)
        budgets = [self._budget(rng, mix, row, parts * (stamp_len + per_group)) for row in rows]
        features = self.features[np.stack([row.bank_groups for row in rows])]
        return AnswerBatch(
            features=features.reshape(len(rows), num_groups, *features.shape[3:]),
            rows=batch,
            selection=Selection(
                num_keep=np.full((len(rows), 1), num_groups * per_group, np.int32),
                budget=np.array(budgets, np.int32),
            ),
            relevant=np.stack([row.relevant for row in rows]).repeat(parts, axis=1),
            kind=np.array([row.kind for row in rows], np.int32),
            width=np.zeros(min(mix.length, shapes.row_len), bool),
        )

    def _row(self, rng: np.random.Generator, mix: RowMix) -> ComposedRow:
        if self.guess_rows is not None and rng.random() < mix.guess_share:
            return self.guess_rows.draw(rng, mix.num_groups, mix.when_share, mix.settled_guess)
        return compose_row(rng, self.index, mix.num_groups, mix.when_share)

    def _budget(self, rng: np.random.Generator, mix: RowMix, row: ComposedRow, group_rows: int) -> int:
        """Rows that the video may take, group_rows for each of the bank's groups: all that there is place for, or a
        random part that still holds what is asked about."""
        most = min(mix.num_groups * group_rows, mix.length - TEXT_LEN)
        least = min((int(row.relevant.sum()) + 1) * group_rows, most)
        return int(rng.integers(least, most + 1)) if rng.random() < mix.drop else most


def divided_times(times_s: np.ndarray, parts: int) -> np.ndarray:
    """Times [G * parts] of equal parts of groups that begin at evenly spaced times_s [G]."""
    step = (times_s[1] - times_s[0] if len(times_s) > 1 else 0) / parts
    return (times_s[:, None] + step * np.arange(parts)).reshape(-1)


def mark_batches(
    check: Callable[[AnswerBatch], tuple[np.ndarray, np.ndarray]], batches: list[AnswerBatch]
) -> dict[str, float]:
    """Share of right answers by kind, and how well the scores tell relevant groups from others.

    `ranked` is the share of (relevant, other) pairs of groups in the right order, `iou` the overlap of the groups
    that score above one half with the relevant ones.
    """
    right_by_kind: dict[int, list[bool]] = {kind: [] for kind in range(len(QUESTION_KINDS))}
    ranked, overlap = [], []
    for batch in batches:
        right, scores = (np.asarray(part) for part in check(batch))
        for kind, value in zip(batch.kind, right, strict=True):
            right_by_kind[int(kind)].append(bool(value))
        group_scores = scores.max(-1)
        for score, relevant in zip(group_scores, batch.relevant, strict=True):
            if relevant.any() and not relevant.all():
                ranked.append((score[relevant][:, None] > score[~relevant][None, :]).mean())
                chosen = score > 0.5
                overlap.append((chosen & relevant).sum() / (chosen | relevant).sum())
    marks = {QUESTION_KINDS[kind]: float(np.mean(values)) for kind, values in right_by_kind.items() if values}
    if ranked:
        marks |= {"ranked": float(np.mean(ranked)), "iou": float(np.mean(overlap))}
    return {**marks, "all": float(np.mean([value for values in right_by_kind.values() for value in values]))}
