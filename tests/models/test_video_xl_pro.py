"""The whole model: what a sample is worth does not depend on its company, and every switch does what it says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.small_model import (
    SMALL,
    Row,
    empty_cache,
    make_batch,
    make_row,
    read_rows,
    run,
    small_params,
    with_selector,
)
from vxlpro_jax.data.batching import RowShapes, build_rows
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params
from vxlpro_jax.train.losses import next_token_loss
from vxlpro_jax.types import VIDEO_MARK, Selection

PARAMS = small_params()
# No row alone fills these, and the batch is padded further still.
ALONE = RowShapes(text_len=14, num_groups=4, stamp_len=5, row_len=50)
TOGETHER = RowShapes(text_len=18, num_groups=6, stamp_len=7, row_len=64)
ROWS = [
    make_row(1, [[3, 4], [2]]),
    make_row(2, [[3]], text_len=6),
    make_row(3, [[4, 3, 3]], text_len=12, question_len=6),
    make_row(4, [], text_len=7),
]
BUDGET = 15  # rows that the videos may take: the first and third row lose tokens, the second loses none


def budget_of(size: int, rows: int = BUDGET) -> Selection:
    return Selection(np.zeros((size, 2), np.int32), np.full(size, rows, np.int32))


def read_alone(row: Row, config=SMALL, query="question", rows=BUDGET):
    visual, batch = make_batch([row], query, ALONE)
    return read_rows(PARAMS, visual, batch, budget_of(1, rows), config=config)


def read_together(rows, config=SMALL, query="question", budget=BUDGET):
    visual, batch = make_batch(rows, query, TOGETHER)
    return read_rows(PARAMS, visual, batch, budget_of(len(rows), budget), config=config)


def assert_same_sample(alone, together, index: int, atol: float = 2e-4) -> None:
    """Rows, labels, scores and logits of a sample alone and as number `index` of a batch."""
    used = int(alone[0].valid.sum())
    assert int(together[0].valid[index].sum()) == used
    np.testing.assert_array_equal(together[0].labels[index, :used], alone[0].labels[0, :used])
    np.testing.assert_allclose(together[0].embeds[index, :used], alone[0].embeds[0, :used], atol=1e-4)
    groups = alone[1].shape[1]
    np.testing.assert_allclose(together[1][index, :groups], alone[1][0], atol=1e-5)
    np.testing.assert_allclose(together[2][index, :used], alone[2][0, :used], atol=atol)


@pytest.mark.parametrize("query", ["row", "question"])
def test_company_and_padding_never_change_a_sample(query):
    together = read_together(ROWS, query=query)
    lengths = []
    for index, row in enumerate(ROWS):
        alone = read_alone(row, query=query)
        assert_same_sample(alone, together, index)
        lengths.append(int(alone[0].valid.sum()))
    assert lengths[:2] == [9 + BUDGET, 6 + 3 + 4] and lengths[3] == 7
    backwards = read_together(ROWS[::-1], query=query)
    assert_same_sample(read_alone(ROWS[0], query=query), backwards, 3)


def test_the_whole_padded_row_as_query_does_depend_on_padding():
    """The released behaviour (quirk 13), kept for parity only."""
    alone, together = read_alone(ROWS[0], query="padded_row"), read_together(ROWS, query="padded_row")
    assert np.abs(together[1][0, :3] - alone[1][0, :3]).max() > 1e-3


def test_the_three_queries_see_different_tokens():
    scores = {query: np.asarray(read_alone(ROWS[0], query=query)[1]) for query in ("padded_row", "row", "question")}
    assert np.abs(scores["row"] - scores["question"]).max() > 1e-3
    assert np.abs(scores["row"] - scores["padded_row"]).max() > 1e-3
    ids = ROWS[0].prompt.ids.copy()
    ids[0] += 1  # a token of the template
    other = ROWS[0]._replace(prompt=ROWS[0].prompt._replace(ids=ids))
    np.testing.assert_allclose(read_alone(other, query="question")[1], scores["question"], atol=1e-6)
    assert np.abs(read_alone(other, query="row")[1] - scores["row"]).max() > 1e-4


def test_the_llm_as_query_encoder_reads_the_text_before_the_question():
    config = with_selector(query_encoder="llm")
    together = read_together(ROWS, config)
    scores = []
    for change in (0, 1):
        ids = ROWS[0].prompt.ids.copy()
        ids[0] += change
        row = ROWS[0]._replace(prompt=ROWS[0].prompt._replace(ids=ids))
        alone = read_alone(row, config)
        scores.append(np.asarray(alone[1]))
        if not change:
            assert_same_sample(alone, together, 0)
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    assert np.abs(scores[0] - read_alone(ROWS[0])[1]).max() > 1e-3
    assert_same_sample(read_alone(ROWS[3], config), together, 3)


def one_video(row: Row, keep: int) -> Row:
    """The row with only one of its two videos."""
    marks = np.flatnonzero(row.prompt.ids == VIDEO_MARK)
    stays = np.arange(len(row.prompt.ids)) != marks[1 - keep]
    first = len(row.stamps[0])
    visual = row.visual[:first] if keep == 0 else row.visual[first:]
    return Row(type(row.prompt)(*(part[stays] for part in row.prompt)), [row.stamps[keep]], visual)


def test_each_of_two_videos_has_its_own_stamps_scores_and_positions():
    row = make_row(5, [[3, 2], [4, 3]])
    rows, scores, _ = read_alone(row, rows=10**6)
    for video in (0, 1):
        own_rows, own_scores, _ = read_alone(one_video(row, video), rows=10**6)
        np.testing.assert_allclose(scores[0, 2 * video : 2 * video + 2], own_scores[0, :2], atol=1e-5)
        sizes = [sum(map(len, stamps)) + 2 * SMALL.tokens_per_group for stamps in row.stamps]
        start = 2 + video * (sizes[0] + 1)
        own_start = 2 + video  # the text between the marks stays
        ours = rows.embeds[0, start : start + sizes[video]]
        theirs = own_rows.embeds[0, own_start : own_start + sizes[video]]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_groups_with_longer_stamps_stay_in_step():
    """Stamps of unequal length in one video (quirk 11): a group's raw scores are those that it has alone."""
    row = make_row(6, [[3, 4, 3]])

    def raw_scores(model, visual, batch):
        stamps = model.llm.embed(batch.stamp_ids, jnp.float32)
        query = model.llm.embed(batch.text_ids, jnp.float32)
        return model.selector(visual, stamps, batch.stamp_mask, query, batch.query_mask)

    together = run(SMALL, raw_scores, PARAMS, *make_batch([row]))
    for group in range(3):
        alone = Row(row.prompt, [[row.stamps[0][group]]], row.visual[[group]])
        own = run(SMALL, raw_scores, PARAMS, *make_batch([alone]))
        np.testing.assert_allclose(together[0, group], own[0, 0], rtol=1e-4, atol=1e-4)


def test_a_single_picture():
    """One view in every place of its group; then a row with that one group, its scores stretched over it."""
    pixels = np.random.default_rng(0).standard_normal((4, 11, 11, 3)).astype(np.float32)
    visual = run(SMALL, VideoXLProModel.encode, PARAMS, pixels, np.zeros(4, np.int32))
    assert visual.shape == (1, SMALL.tokens_per_group, SMALL.llm.dim)
    repeated = run(SMALL, VideoXLProModel.encode, PARAMS, pixels[[0] * 4], np.arange(4, dtype=np.int32))
    np.testing.assert_allclose(visual, repeated, atol=1e-5)
    _, batch = make_batch([ROWS[1]], shapes=ALONE)
    padded = np.zeros((1, 4, *visual.shape[1:]), np.float32)
    padded[0, :1] = visual
    rows, scores, logits = read_rows(PARAMS, padded, batch, budget_of(1))
    assert int(rows.valid.sum()) == 13 and np.isfinite(logits).all()
    assert scores[0, 0].min() == 0 and abs(float(scores[0, 0].max()) - 1) < 1e-6


def test_compress_takes_frames_in_the_order_given():
    pixels = np.random.default_rng(0).standard_normal((4, 11, 11, 3)).astype(np.float32)
    source = np.array([3, 1, 1, 0], np.int32)
    ours = run(SMALL, VideoXLProModel.encode, PARAMS, pixels, source)
    straight = run(SMALL, VideoXLProModel.encode, PARAMS, pixels[source], np.arange(4, dtype=np.int32))
    np.testing.assert_allclose(ours, straight, atol=1e-4)
    unordered = run(SMALL, VideoXLProModel.encode, PARAMS, pixels, np.arange(4, dtype=np.int32))
    assert np.abs(ours - unordered).max() > 1e-2


def merge_whole(model, visual, batch, selection):
    return model.merge(visual, batch, selection, batch.row_source.shape[1])


def test_score_addition_and_rotation_can_be_left_out():
    row = ROWS[0]
    visual, batch = make_batch([row], shapes=ALONE)
    switched = [
        run(with_selector(**switches), merge_whole, PARAMS, visual, batch, budget_of(1, 10**6))
        for switches in (
            {"score_use": "none", "rotation_base": None},
            {"rotation_base": None},
            {"score_use": "none"},
            {},
        )
    ]
    (plain, scores), (scored, _), (rotated, _), (both, _) = switched
    first_visual = batch.text_ids.size + batch.stamp_ids.size
    source = np.asarray(plain.source[0])
    is_visual = source >= first_visual
    index = source[is_visual] - first_visual
    flat_visual, flat_scores = visual.reshape(-1, 32)[index], np.asarray(scores).reshape(-1)[index, None]
    np.testing.assert_array_equal(plain.embeds[0, is_visual], flat_visual)
    np.testing.assert_allclose(scored.embeds[0, is_visual], flat_visual + flat_scores, atol=1e-6)
    np.testing.assert_allclose(
        both.embeds[0, is_visual], np.asarray(rotated.embeds[0, is_visual]) + flat_scores, atol=1e-5
    )
    assert np.abs(rotated.embeds[0, is_visual] - flat_visual).max() > 0.1
    is_text = (source >= 0) & (source < batch.text_ids.size)
    for rows in (scored, rotated, both):  # text is neither rotated nor scored
        np.testing.assert_array_equal(rows.embeds[0, is_text], plain.embeds[0, is_text])
    stamps = ~is_visual & ~is_text & (source >= 0)
    assert np.abs(rotated.embeds[0, stamps] - plain.embeds[0, stamps]).max() > 0.01  # stamps are rotated
    np.testing.assert_array_equal(scored.embeds[0, stamps], plain.embeds[0, stamps])  # and not scored


def test_rows_are_cut_at_the_right_and_what_stays_is_unchanged():
    visual, batch = make_batch([ROWS[2]], shapes=ALONE)
    whole = read_rows(PARAMS, visual, batch, budget_of(1, 10**6))
    cut = read_rows(PARAMS, visual, batch, budget_of(1, 10**6), length=20)
    assert cut[0].embeds.shape[1] == 20 < int(whole[0].valid.sum())
    np.testing.assert_array_equal(cut[0].source, whole[0].source[:, :20])
    np.testing.assert_allclose(cut[2], whole[2][:, :20], atol=1e-4)


def loss_of(config, params, visual, batch, selection, remat=False):
    model = VideoXLProModel(config, remat=remat)
    output = model.apply({"params": params}, visual, batch, selection, batch.row_source.shape[1])
    return next_token_loss(output.logits, output.labels)[0].mean(), output


GRAD = jax.jit(jax.value_and_grad(loss_of, argnums=(1, 2), has_aux=True), static_argnums=0, static_argnames="remat")


def test_gradient_reaches_the_selector_through_the_added_score_alone():
    visual, batch = make_batch(ROWS, shapes=TOGETHER)
    (_, output), (grads, to_visual) = GRAD(SMALL, PARAMS, visual, batch, budget_of(4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, to_visual, output.logits)))
    for name, part in grads["selector"]["window_attention"].items():
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(part))
        assert (largest > 0) is (name != "v_proj"), (name, largest)
    assert np.abs(grads["selector"]["text_mlp"]["kernel"]).max() > 0

    without = with_selector(score_use="none")
    _, (grads, to_visual) = GRAD(without, PARAMS, visual, batch, budget_of(4))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(grads["selector"]))
    reached = (np.asarray(to_visual) != 0).any(-1).sum((1, 2))
    # A hard drop: the tokens that were kept get a gradient, the others and the padding get none.
    rows, _, _ = read_together(ROWS, without)
    text_and_stamps = TOGETHER.text_len + TOGETHER.num_groups * TOGETHER.stamp_len
    assert reached.tolist() == (np.asarray(rows.source) >= text_and_stamps).sum(-1).tolist()
    assert 0 < reached[0] < 12


def test_constant_scores_are_zeros_and_their_gradients_finite():
    """Quirk 14: with a text_mlp of zeros the reference's scores, and all that follows, are NaN."""
    silent = jax.tree.map(np.zeros_like, PARAMS["selector"]["text_mlp"])
    params = {**PARAMS, "selector": {**PARAMS["selector"], "text_mlp": silent}}
    visual, batch = make_batch(ROWS, shapes=TOGETHER)
    (loss, output), grads = GRAD(SMALL, params, visual, batch, budget_of(4))
    assert (np.asarray(output.scores) == 0).all() and np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, output.logits)))


def test_remat_changes_no_gradient():
    visual, batch = make_batch(ROWS, shapes=TOGETHER)
    plain, again = (GRAD(SMALL, PARAMS, visual, batch, budget_of(4), remat=remat) for remat in (False, True))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@jax.jit
def run_in_bfloat16(params, visual, batch, selection):
    model = VideoXLProModel(SMALL, dtype=jnp.bfloat16)
    return model.apply({"params": params}, visual, batch, selection, batch.row_source.shape[1])


def test_bfloat16_stays_close_to_float32():
    """Rounding is 2^-9 of a number; some sixty roundings in a row add up to about 2^-9 sqrt(60) = 1.5 % of the largest
    logit; five times that is allowed. Nothing is dropped: equal sets of kept tokens are not promised."""
    visual, batch = make_batch(ROWS, shapes=TOGETHER)
    single = read_together(ROWS, budget=10**6)
    output = run_in_bfloat16(PARAMS, visual, batch, budget_of(4, 10**6))
    valid = np.asarray(single[0].valid)
    largest = np.abs(single[2])[valid].max()
    assert output.logits.dtype == output.scores.dtype == jnp.float32
    assert 0 < np.abs(single[2] - output.logits)[valid].max() < 0.075 * largest
    # Scores are differences of much larger numbers (up to ten times), stretched: their rounding is stretched too.
    assert np.abs(single[1] - output.scores).max() < 10 * 2**-7


def test_counts_and_contents_never_recompile():
    read_together(ROWS)
    compiled = read_rows._cache_size()
    lengths = set()
    for rows, budget in ((ROWS, 15), (ROWS, 0), (ROWS[::-1], 10**6), (ROWS[:1] * 4, 7)):
        for query in ("question", "padded_row"):
            merged, _, logits = read_together(rows, query=query, budget=budget)
            lengths |= set(np.asarray(merged.valid).sum(-1).tolist())
            assert logits.shape[1] == TOGETHER.row_len
    assert read_rows._cache_size() == compiled
    assert len(lengths) > 5


def greedy(rows, shapes, steps=4, budget=BUDGET):
    visual, batch = make_batch(rows, shapes=shapes)
    merged, _, _ = read_rows(PARAMS, visual, batch, budget_of(len(rows), budget))
    cache = empty_cache(len(rows), merged.valid.shape[1] + steps)
    logits, cache = run(SMALL, VideoXLProModel.prefill, PARAMS, merged.embeds, merged.valid, cache)
    seen = [logits]
    for _ in range(steps):
        logits, cache = run(SMALL, VideoXLProModel.decode_step, PARAMS, seen[-1].argmax(-1), cache)
        seen.append(logits)
    return np.stack(seen, axis=1)


def test_greedy_answers_of_a_padded_batch_equal_those_alone():
    together = greedy(ROWS, TOGETHER)
    for index, row in enumerate(ROWS):
        alone = greedy([row], ALONE)
        np.testing.assert_allclose(together[index], alone[0], atol=1e-3)
        assert together[index].argmax(-1).tolist() == alone[0].argmax(-1).tolist()


def test_greedy_with_cache_equals_reading_everything_again():
    row = ROWS[1]
    logits = greedy([row], ALONE)[0]
    answer = logits.argmax(-1)[:-1]
    prompt = row.prompt
    longer = type(prompt)(
        np.append(prompt.ids, answer).astype(np.int32),
        np.append(prompt.labels, answer).astype(np.int32),
        np.append(prompt.question, np.zeros(len(answer), bool)),
    )
    rows, _, again = read_alone(row._replace(prompt=longer))
    used = int(rows.valid.sum())
    np.testing.assert_allclose(again[0, used - len(logits) : used], logits, atol=1e-3)


@pytest.mark.slow
def test_real_widths_with_two_layers_each():
    """Every width of the released model, 620 million parameters in float32; only the layers are fewer."""
    full = VIDEO_XL_PRO_3B
    config = replace(full, vision=replace(full.vision, num_layers=2), llm=replace(full.llm, num_layers=2))
    rng = np.random.default_rng(0)
    leaves = {  # one leaf at a time: a jitted init would hold several copies
        path: rng.standard_normal(leaf.shape, np.float32) * np.float32(0.02) + (path[-1] == "scale")
        for path, leaf in flatten_dict(abstract_params(config)).items()
    }
    params = unflatten_dict(leaves)
    tokens = config.tokens_per_group
    side = config.vision.image_size
    pixels = rng.uniform(-1, 1, (4, side, side, 3)).astype(np.float32)
    visual = run(config, VideoXLProModel.encode, params, pixels, np.arange(4, dtype=np.int32))
    assert visual.shape == (1, tokens, config.llm.dim) and np.isfinite(visual).all() and np.abs(visual).max() > 0
    row = make_row(0, [[config.stamps.num_tokens]])
    batch = build_rows([row.prompt], [row.stamps], tokens, "question")
    rows, scores, logits = read_rows(params, visual[None], batch, budget_of(1, 100), config=config)
    assert logits.shape == (1, 9 + config.stamps.num_tokens + tokens, config.llm.vocab_size)
    assert np.isfinite(logits).all()
    assert int(rows.valid.sum()) == 9 + 100 and abs(float(scores.max()) - 1) < 1e-6
