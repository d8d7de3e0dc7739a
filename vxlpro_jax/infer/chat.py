"""A conversation about videos: each question is read after the answers before it, and nothing is read twice.

Source: SPEC 12 (quirk 11: the prompt) and 13 (turns). What is kept of the videos is decided by the first question.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vxlpro_jax.data.conversation import follow_up_ids
from vxlpro_jax.infer.reading import Reader, plan_of, then_text
from vxlpro_jax.infer.replies import Clock, Generation, Replies, Request, plan_request, reader_of
from vxlpro_jax.infer.spelling import Speller, TextCodec
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.types import RowPlan
from vxlpro_jax.vocabulary import TokenIds


class Turn(NamedTuple):
    question: str
    answer: str


class Chat:
    """See VideoXLPro.chat.

    request(question, max_new_tokens, seed): the prompt of a question by itself, or ValueError. answers(request,
    replies): the Answers. context_len: rows that the whole conversation may take.
    """

    def __init__(
        self,
        params: Any,
        tokenizer: TextCodec,
        token_ids: TokenIds,
        context_len: int,
        request: Callable[[str, int, int], Request],
        answers: Callable[[Request, Replies], list[Any]],
    ):
        self.turns: list[Turn] = []
        self._params = params
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self._context_len = context_len
        self._request = request
        self._answers = answers
        self._reader: Reader | None = None
        self._plan: RowPlan | None = None

    def ask(
        self,
        question: str,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Any:
        """An Answer that knows the turns before. on_text: called with each new piece of the text.

        num_tokens counts the whole conversation; evidence is that of this question. Raises ValueError where the
        conversation has no room left; it stands as it was then.
        """
        clock = Clock()
        watch = None if on_text is None else lambda _, text: on_text(text)
        generation = Generation(self._token_ids, max_new_tokens, Sampling(temperature, top_p, top_k), seed, watch)
        request = self._request(question, max_new_tokens, seed)
        plans, scores = plan_request(request, self._params)
        if self._reader is None or self._plan is None:
            self._reader, plan = reader_of(request, self._params), plan_of(plans, 0)
        else:
            plan = then_text(self._plan, follow_up_ids(question, self._tokenizer.encode))
        self._check_room(len(plan.valid), max_new_tokens)
        logits = self._reader.read(plan, max_new_tokens).block_until_ready()
        clock.has_read()
        speller = Speller(self._tokenizer, 1, watch)
        for ids in self._reader.generate(logits, *generation.arguments()):
            speller.add(ids)
        clock.has_decoded(len(speller.tokens[0]))
        texts = speller.texts()
        self._plan = then_text(plan, speller.tokens[0])
        self.turns.append(Turn(question, texts[0]))
        num_rows, kept = np.array([len(plan.valid)]), [plan.visual[plan.visual >= 0]]
        return self._answers(request, Replies(texts, scores, num_rows, kept, clock.timings()))[0]

    def _check_room(self, length: int, max_new_tokens: int) -> None:
        if length + max_new_tokens > self._context_len:
            raise ValueError(
                f"the conversation has {length} rows with this question, and {max_new_tokens} tokens more may be "
                f"generated: the context holds {self._context_len}; start a new chat, lower max_new_tokens, or give "
                "chat() a larger reserve"
            )
