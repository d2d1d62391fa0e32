"""A vocabulary of one's own, from captions: the pairs of tokens that stand side by side most often merge first.

The same captions give the same vocabulary, whatever their order; the library's own trainer decides ties by chance.
"""

import collections
import heapq
import itertools
from collections.abc import Iterable, Iterator

from rqjax.data.captions import Captioned
from rqjax.data.sources import Source
from rqjax.data.text import END, PAD, UNKNOWN, Vocabulary, words
from rqjax.errors import InputError

ALPHABET = 8
"""One token of so many, at most, is a character: the commonest ones. The official 16,384 tokens have 1,957."""
Pair = tuple[str, str]


def captions_of(source: Source) -> Iterator[str]:
    """All captions of a data set. Raises InputError if it has none."""
    if not source.captioned:
        raise InputError(f"{source.name(0)} has no caption: give images with captions")
    if isinstance(source, Captioned):
        yield from source.captions  # without their images
    else:
        yield from (source[i]["caption"] for i in range(len(source)))


def learn(captions: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of `size` tokens from captions, or of as many as they give.

    Sennrich et al. (2016), with marks at the ends of words. Raises InputError if there is nothing to merge.
    """
    counted = collections.Counter(word for text in captions for word in words(text) if word not in (PAD, UNKNOWN))
    spelled = {word: [*word[:-1], word[-1] + END] for word in sorted(counted)}
    letters: collections.Counter[str] = collections.Counter()
    for word, parts in spelled.items():
        letters.update({part: counted[word] * parts.count(part) for part in set(parts)})
    commonest = sorted(letters, key=lambda letter: (-letters[letter], letter))[: max(size // ALPHABET, 1)]
    known, tokens = set(commonest), [PAD, UNKNOWN, *sorted(commonest)]
    # words with a rarer letter teach nothing
    whole = [(parts, counted[word]) for word, parts in spelled.items() if known.issuperset(parts)]
    merges = _merges(whole, tokens, size)
    if not merges:
        raise InputError(f"{sum(counted.values())} words make no vocabulary of {size} tokens: give more, of either")
    return Vocabulary({token: index for index, token in enumerate(tokens)}, merges)


def _merges(spelled: list[tuple[list[str], int]], tokens: list[str], size: int) -> list[Pair]:
    """The merges that bring `tokens` to their `size`, in order; the tokens that they make are put to them."""
    counts: collections.Counter[Pair] = collections.Counter()
    where: dict[Pair, set[int]] = collections.defaultdict(set)
    for i, (parts, times) in enumerate(spelled):
        for pair in itertools.pairwise(parts):
            counts[pair] += times
            where[pair].add(i)
    # most often first, then in the order of letters; an entry whose count is no longer true is passed over
    queue = [(-times, pair) for pair, times in counts.items()]
    heapq.heapify(queue)
    merges, made = [], set(tokens)
    while queue and len(tokens) < size:
        times, pair = heapq.heappop(queue)
        if counts[pair] != -times or not times:
            continue
        merges.append(pair)
        if (joined := "".join(pair)) not in made:
            made.add(joined)
            tokens.append(joined)
        for changed in _merge(pair, spelled, counts, where):
            heapq.heappush(queue, (-counts[changed], changed))
    return merges


def _merge(
    pair: Pair, spelled: list[tuple[list[str], int]], counts: collections.Counter[Pair], where: dict[Pair, set[int]]
) -> set[Pair]:
    """Merges a pair in every word that has it. Returns the pairs whose counts are others now."""
    changed = set()
    for i in where.pop(pair):
        parts, times = spelled[i]
        before = list(itertools.pairwise(parts))
        k = 0
        while k < len(parts) - 1:
            if (parts[k], parts[k + 1]) == pair:
                parts[k : k + 2] = ["".join(pair)]
            k += 1
        after = list(itertools.pairwise(parts))
        for old in before:
            counts[old] -= times
        for new in after:
            counts[new] += times
            where[new].add(i)
        changed |= {*before, *after}
    return changed - {pair}
