"""Prefill and decoding: the released computation at the golden sizes, padding without effect, stopping, NaN refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden_full_model import FullModel
from tests.golden_support import GoldenFile
from tests.infer.askable import CONFIG, askable
from vxlpro_jax.data.batching import build_rows, row_shapes
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.infer.generate import decode, encode_frames, prefill
from vxlpro_jax.infer.kept_rows import plan_prompts, tokens_at
from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.infer.token_sampler import Sampling, next_token
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import IGNORE_LABEL

GREEDY = Sampling()


def test_released_model_from_pixels_to_greedy_ids(golden_dir):
    """Tokens of an index, the released switches and one keep rate give the reference's ids, whatever is padded."""
    golden = GoldenFile(golden_dir, "full_model")
    full = FullModel(golden, golden_dir)
    config = full.config
    assert (config.selector.selection, config.selector.selector_query) == ("keep_rate", "padded_row")
    model = VideoXLProModel(config)
    visual = encode_frames(model, full.params, full.pixels)
    np.testing.assert_allclose(visual, full.encode(np.arange(len(full.pixels))), atol=1e-5)
    ids = golden["in.input_ids"][0]
    prompt = Prompt(ids, np.full_like(ids, IGNORE_LABEL), np.zeros(ids.shape, bool))
    stamps = [[full.stamps(golden["in.time_ids"])]]
    tokens = config.tokens_per_group
    exact = row_shapes([prompt], stamps, tokens)
    # The text stays exact: the released query reads its padding (quirk 13).
    padded = exact._replace(num_groups=exact.num_groups + 1, stamp_len=exact.stamp_len + 2, row_len=exact.row_len + 30)
    batch = build_rows([prompt], stamps, tokens, "padded_row", padded)
    selection = full.selection(batch, float(golden["a.rate"]))
    expected = golden["greedy.ids"]
    videos = [np.asarray(visual)]
    plan, _ = plan_prompts(model, full.params, videos, batch, selection, exact.row_len)
    tokens = tokens_at(videos, plan.visual)
    prefilled = prefill(model, full.params, plan, tokens, exact.row_len + len(expected))
    error = np.abs(np.asarray(prefilled.logits[0]) - golden["greedy.logits"][0]).max()
    assert error <= golden.tolerance("greedy.logits")
    assert (plan.visual >= 0).sum() == len(golden["a.keep"])
    assert plan.valid.sum() == len(golden["a.inputs_embeds"][0])
    chosen = [step.tolist() for step in decode(model, full.params, *prefilled, len(expected), (), GREEDY, 0)]
    assert chosen == [[token] for token in expected.tolist()]


def _prefilled(rows: int = 2):
    """(logits, cache) of two rows that were told nothing but have a first token to choose."""
    model = askable()
    cache = allocate(CONFIG.llm, rows, 32, jnp.float32)
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((rows, CONFIG.llm.vocab_size)), jnp.float32)
    return logits, STEP(model.params, jnp.zeros(rows, jnp.int32), cache)[1]


STEP = jax.jit(
    lambda params, ids, cache: askable().model.apply({"params": params}, ids, cache, method=VideoXLProModel.decode_step)
)


def _decoded(max_new_tokens: int, stop_ids=(), sampling=GREEDY, seed: int = 0, stride: int = 4) -> np.ndarray:
    model = askable()
    steps = list(decode(model.model, model.params, *_prefilled(), max_new_tokens, stop_ids, sampling, seed, stride))
    return np.stack(steps, axis=1) if steps else np.zeros((2, 0), int)


def _whole(steps):
    """All tokens of a decoding, and the cache that it leaves."""
    seen = []
    try:
        while True:
            seen.append(next(steps))
    except StopIteration as end:
        return seen, end.value


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=5.0)])
def test_the_loop_on_the_device_makes_the_tokens_of_single_steps(sampling):
    """Whatever the stride; and the cache that it leaves is that of single steps."""
    logits, cache = _prefilled()
    params, key, expected = askable().params, jax.random.key(7), []
    for step in range(9):
        ids = next_token(logits, jax.random.fold_in(key, step), sampling)
        expected.append(np.asarray(ids))
        if step < 8:
            logits, cache = STEP(params, ids, cache)
    for stride in (1, 3, 32):
        seen, left = _whole(decode(askable().model, params, *_prefilled(), 9, (), sampling, 7, stride))
        np.testing.assert_array_equal(seen, expected)
        assert int(left.next_slot) == int(cache.next_slot) == 9
        np.testing.assert_array_equal(left.valid, cache.valid)
        np.testing.assert_allclose(left.keys, cache.keys, atol=1e-5)


def test_rows_end_each_at_its_own_stop_token():
    free = _decoded(6)
    assert free.shape == (2, 6) and (free >= 0).all()
    stop = int(free[0, 2])
    assert stop not in free[0, :2] and stop not in free[1, :5]  # else the case shows nothing
    stopped = _decoded(6, (stop,))
    assert stopped[0].tolist() == [*free[0, :2], -1, -1, -1, -1]
    assert stopped[1].tolist() == free[1].tolist()
    both = _decoded(6, (stop, int(free[1, 3])))
    assert both.shape == (2, 3)  # nothing is generated once all rows have ended


def test_the_device_stops_where_all_rows_have_ended():
    """Not at the end of its stride: the cache holds no token more."""
    stops = _decoded(6)[:, 3].tolist()
    model = askable()
    seen, left = _whole(decode(model.model, model.params, *_prefilled(), 24, stops, GREEDY, 0, 24))
    assert 0 < len(seen) <= 3 and int(left.next_slot) == 1 + len(seen)


def test_first_token_may_be_the_last():
    first = _decoded(1)
    assert first.shape == (2, 1)
    assert _decoded(4, first[:, 0].tolist()).shape == (2, 0)


def test_sampling_is_decided_by_the_seed():
    warm = Sampling(temperature=5.0)
    one, again, other = _decoded(6, (), warm, 1), _decoded(6, (), warm, 1), _decoded(6, (), warm, 2)
    assert one.tolist() == again.tolist() != other.tolist()
    assert len(set(one[0].tolist())) > 1


def test_logits_that_are_not_finite_are_refused():
    logits, cache = _prefilled()
    model = askable()
    with pytest.raises(FloatingPointError, match="not finite at step 0 .float32."):
        list(decode(model.model, model.params, logits.at[1, 3].set(jnp.nan), cache, 4, (), GREEDY, 0))


def test_logits_that_stop_being_finite_end_the_answer_there():
    """A damaged embedding: what was chosen before the token is read still comes."""
    model, healthy = askable(), _decoded(3)
    params = jax.tree.map(lambda leaf: leaf, model.params)
    table = params["llm"]["embed_tokens"]["embedding"]
    params["llm"]["embed_tokens"]["embedding"] = jnp.asarray(table).at[healthy[0, 1]].set(jnp.nan)
    steps = decode(model.model, params, *_prefilled(), 4, (), GREEDY, 0)
    assert [next(steps).tolist(), next(steps).tolist()] == healthy[:, :2].T.tolist()
    with pytest.raises(FloatingPointError, match="at step 2"):
        next(steps)
