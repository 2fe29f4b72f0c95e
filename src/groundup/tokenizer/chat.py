"""Rendered conversations to ids, and which of them count for the loss."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from groundup.errors import TokenizerError
from groundup.text.chat.rendering import Segment
from groundup.tokenizer.tokenizer import Tokenizer

_ADD = (
    "add them with --add-special-tokens, or name them when the tokenizer is trained (groundup tokenizer train "
    "--special-tokens)"
)
LEARN = (
    "the model was not trained with it: talk with one that was, or fine-tune this one on conversations (groundup "
    "encode --format chat --add-special-tokens, groundup train --init)"
)


def check_can_chat(tokenizer: Tokenizer, names: Sequence[str], template: str, mend: str = _ADD) -> None:
    """Refuse a tokenizer that lacks special tokens of a template, or that cannot encode a conversation in parts.

    Args:
        names: special tokens of the template.
        mend: advice where the tokenizer lacks some of them.

    Raises:
        TokenizerError: one of the names is not a special token; or the tokenizer puts a space before texts.
    """
    if tokenizer.prefix_length:
        raise TokenizerError(
            "the tokenizer puts a space before texts, as SentencePiece does, so that parts of a conversation cannot be "
            "encoded by themselves; use a tokenizer on bytes, or one that puts none"
        )
    missing = [name for name in names if name not in tokenizer.special_tokens]
    if missing:
        raise TokenizerError(
            f"the tokenizer lacks special tokens of the chat template {template}: {' '.join(missing)}; {mend}"
        )


def encode_segments(
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Segment]],
    append: int | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8]]:
    """The ids of conversations, as those of their whole text, but with special tokens only where a segment is one.

    Text between two special tokens is encoded as one, whether all of it counts or not; a token counts where it and a
    segment that counts overlap.

    Args:
        append: an id that follows each conversation. It counts only where the conversation's last token counts and is
            no special token: something has to end the assistant's turn.

    Returns:
        ids: uint32 ``(N,)``, of all conversations.
        ends: uint64 ``(conversations,)``, where each ends in ids.
        counts: uint8 ``(N,)``, 1 for tokens that count for the loss.

    Raises:
        TokenizerError: a special segment is no special token, or the text has a byte that the vocabulary lacks.
    """
    runs: list[list[Segment]] = []  # each a special token, or text up to the next one
    lengths = []  # runs of each conversation
    for segments in conversations:
        before = len(runs)
        for segment in segments:
            if not segment.is_special and len(runs) > before and not runs[-1][0].is_special:
                runs[-1].append(segment)
            else:
                runs.append([segment])
        lengths.append(len(runs) - before)
    whole = [run[0].text for run in runs if len(run) == 1 and not run[0].is_special]
    ids, ends = tokenizer.encode_batch_to_numpy(whole, allowed_special="none", num_threads=num_threads)
    of_whole = iter(np.split(ids, ends[:-1].astype(np.int64)) if whole else ())
    id_of = {name: np.array([tokenizer.token_id(name)], np.uint32) for name in tokenizer.special_tokens}

    parts, marks, stops, total, place = list[NDArray[np.uint32]](), list[NDArray[np.uint8]](), list[int](), 0, 0
    for count in lengths:
        for run in runs[place : place + count]:
            if len(run) > 1:
                part, mark = _mixed(tokenizer, run)
            else:
                part = id_of[run[0].text] if run[0].is_special else next(of_whole)
                mark = np.full(len(part), run[0].counts, np.uint8)
            parts.append(part)
            marks.append(mark)
            total += len(part)
        if append is not None:
            last = runs[place + count - 1][-1] if count else None
            parts.append(np.array([append], np.uint32))
            marks.append(np.array([last is not None and last.counts and not last.is_special], np.uint8))
            total += 1
        place += count
        stops.append(total)
    if not parts:
        return np.empty(0, np.uint32), np.array(stops, np.uint64), np.empty(0, np.uint8)
    return np.concatenate(parts), np.array(stops, np.uint64), np.concatenate(marks)


def _mixed(tokenizer: Tokenizer, run: Sequence[Segment]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Ids of text of which a part counts, and which of them do."""
    ids, offsets = tokenizer.encode_with_offsets("".join(segment.text for segment in run), allowed_special="none")
    edges = np.cumsum([0, *(len(segment.text) for segment in run)])
    marks = np.zeros(len(ids), np.uint8)
    for segment, begin, end in zip(run, edges[:-1], edges[1:], strict=True):
        if segment.counts:
            marks[(offsets[:, 0] < end) & (offsets[:, 1] > begin)] = 1
    return ids, marks
