"""Every sampler has the distribution it claims, and is exact where floats cannot be.

Probabilities are computed here independently of the package. A statistical assertion fails by chance less than once in
10^7 times; seeds are fixed, so it does so always or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache

import mpmath
import numpy as np
import pytest
from scipy import stats

from dpsynth.privacy.distributions import (
    GUIDE_BITS,
    HEAD_BITS,
    SLACK,
    Laplace,
    Law,
    cumulative,
    exp_neg,
    filled,
    gaussian,
    laplace,
    table,
)
from dpsynth.privacy.noise import DOUBT, Noise

CHANCE = 1e-7
ONES = 2**64 - 1
SCALES = [0.5, 1.0, 5.0, 100.0, 252_000.0, 2.0**39]  # one of them a noise multiplier times a sensitivity of 2,520

Cdf = Callable[[np.ndarray, float], np.ndarray]


class Scripted(Noise):
    """Draws the words it is given, and then zeros."""

    def __init__(self, words: Iterable[int]) -> None:
        super().__init__(insecure_seed=0)
        self.script = list(words)

    def bits(self, n: int) -> np.ndarray:
        words, self.script = self.script[:n], self.script[n:]
        return np.array(words + [0] * (n - len(words)), dtype=np.uint64)


def rounded_cdf(k: np.ndarray, sigma: float) -> np.ndarray:
    return stats.norm.cdf((k + 0.5) / sigma)


def discrete_cdf(k: np.ndarray, sigma: float) -> np.ndarray:
    if sigma > 1000:  # the sum and the integral differ by a part in 24 sigma^2
        return rounded_cdf(k, sigma)
    reach = int(20 * sigma) + 20
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.cumsum(weights / weights.sum())[k.astype(int) + reach]


def laplace_cdf(k: np.ndarray, scale: float) -> np.ndarray:
    q = math.exp(-1 / scale)
    return np.where(k >= 0, 1 - q ** (np.abs(k) + (k >= 0)) / (1 + q), q ** np.abs(k) / (1 + q))


def chi_square(draws: np.ndarray, cdf: Cdf, scale: float) -> float:
    """p-value of the draws, in cells that expect at least 20."""
    edges = np.unique(np.rint(1.3 * scale * stats.norm.ppf(np.linspace(0, 1, 62)[1:-1])))
    steps = np.concatenate([[0], cdf(edges, scale), [1]])
    observed = np.histogram(draws, np.concatenate([[-np.inf], edges + 0.5, [np.inf]]))[0]
    assert np.all(np.diff(steps) * len(draws) >= 20)
    return float(stats.chisquare(observed, np.diff(steps) * len(draws)).pvalue)


SAMPLERS: list[tuple[Callable[[Noise, float, int], np.ndarray], Cdf]] = [
    (Noise.rounded_gaussian, rounded_cdf),
    (Noise.discrete_gaussian, discrete_cdf),
    (Noise.discrete_laplace, laplace_cdf),
    (lambda noise, sigma, size: noise.gradient_gaussian(sigma / 64, size, 2.0**-6), rounded_cdf),
]
NAMES = ["rounded", "discrete", "laplace", "gradient"]


@pytest.mark.parametrize("sampler, cdf", SAMPLERS, ids=NAMES)
@pytest.mark.parametrize("scale", SCALES)
def test_noise_has_the_distribution_it_claims_and_the_test_has_power(
    scale: float, sampler: Callable[[Noise, float, int], np.ndarray], cdf: Cdf
) -> None:
    draws = sampler(Noise(insecure_seed=11), scale, 200_000)
    assert draws.dtype == np.int64 and draws.shape == (200_000,)
    assert chi_square(draws, cdf, scale) > CHANCE
    for wrong in (2 / 3 * scale, 3 / 2 * scale):
        assert chi_square(sampler(Noise(insecure_seed=12), wrong, 200_000), cdf, scale) < 1e-9


def test_rounded_and_discrete_noise_are_told_apart() -> None:
    assert chi_square(Noise(insecure_seed=1).rounded_gaussian(0.5, 200_000), discrete_cdf, 0.5) < 1e-9
    assert chi_square(Noise(insecure_seed=1).discrete_gaussian(0.5, 200_000), rounded_cdf, 0.5) < 1e-9


@pytest.mark.parametrize("sampler", [sampler for sampler, _ in SAMPLERS[:3]], ids=NAMES[:3])
def test_a_scale_far_below_one_gives_zeros(sampler: Callable[[Noise, float, int], np.ndarray]) -> None:
    for scale in (2.0**-40, 0.01):
        assert not sampler(Noise(insecure_seed=1), scale, 1000).any()
    assert sampler(Noise(), 3.0, 0).shape == (0,) and sampler(Noise(), 3.0, 1).shape == (1,)


@pytest.mark.parametrize("low_digit", [0, 1, 2, 3])
def test_large_noise_fills_its_last_digits(low_digit: int) -> None:
    for sampler, _ in SAMPLERS[:3]:
        hits = int((sampler(Noise(insecure_seed=5), 2.0**40, 100_000) % 4 == low_digit).sum())
        assert stats.binomtest(hits, 100_000, 0.25).pvalue > CHANCE


# -- what is computed exactly ------------------------------------------------------------------------------------------

LAWS = [gaussian(s, whole=True) for s in (0.5, 1.0, 5.3, 100.0, 2.0**40)]
LAWS += [gaussian(s, whole=False) for s in (0.3, 100.0)] + [laplace(s) for s in (0.5, 3.7, 1e6)]


@lru_cache
def reached(law: Law) -> list[mpmath.mpf]:
    """P(block < j) for j = 0, 1, 2, ... by mpmath, at 130 digits."""
    with mpmath.workdps(130):
        spread = mpmath.mpf(law.spread)
        power = (lambda j: j / spread) if isinstance(law, Laplace) else (lambda j: (j / spread) ** 2 / 2)
        sums, term, j = [mpmath.mpf(0)], mpmath.mpf(1), 0
        while term > mpmath.mpf(10) ** -125:
            term, j = mpmath.exp(-power(j)), j + 1
            sums.append(sums[-1] + term)
        return [each / sums[-1] for each in sums]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_cumulative_probabilities_are_within_their_proven_error(law: Law) -> None:
    with mpmath.workdps(130):
        for bits in (63, 127):
            sums = law.cumulative(bits)
            for computed, exact in zip(sums, reached(law)[1:], strict=False):
                assert computed <= exact * 2**bits <= computed + SLACK
            assert sums[-1] < 2**bits


def test_an_exponential_is_within_its_proven_error() -> None:
    with mpmath.workdps(100):
        for y in [
            Fraction(0),
            Fraction(1, 3),
            Fraction(1, 2**80),
            Fraction(88, 2),
            Fraction(6399, 100),
            Fraction(10**9),
        ]:
            for bits in (64, 128, 200):
                exact = mpmath.exp(-mpmath.mpf(y.numerator) / y.denominator) * 2**bits
                assert exp_neg(y, bits) <= exact <= exp_neg(y, bits) + SLACK


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_float_arithmetic_is_well_within_its_allowance(law: Law) -> None:
    words = Noise(insecure_seed=1).bits(300)
    offset = law.offset(words)
    block = np.arange(300, dtype=np.int64) % len(table(law).cuts)
    chance = np.exp(-law.excess(block.astype(float), offset * 2.0**-64))
    for b, word, near in zip(block.tolist(), offset.tolist(), chance.tolist(), strict=True):
        exact = Fraction(exp_neg(law.exact_excess(b, Fraction(word, 2**64)), 120), 2**120)
        assert abs(Fraction(near) - exact) < Fraction(DOUBT) / 20


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_table_names_a_block_only_where_the_word_settles_it(law: Law) -> None:
    found = table(law)
    near = (found.cuts[:, None] + np.arange(-4, 5)).ravel()
    ends = np.arange(1, 2**14, 97)[:, None] * 2**49 + np.array([-1, 0, 1])
    words = np.unique(np.concatenate([near, ends.ravel(), [0, 2**63 - 1]]).clip(0, 2**63 - 1))
    block, doubtful = found.blocks(words)
    assert set(found.cuts) & set(words) <= set(words[doubtful]) and 2**63 - 1 in words[doubtful]
    settled = np.setdiff1d(np.arange(len(words)), doubtful)
    exact = reached(law)
    with mpmath.workdps(130):
        for word, b in zip(words[settled].tolist(), block[settled].tolist(), strict=True):
            assert exact[b] * 2**63 <= word and word + 1 <= exact[b + 1] * 2**63


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_word_that_is_sure_names_its_block_and_keeps_wherever_u_lies(law: Law) -> None:
    found, u = table(law), 1 - Fraction(1, 2**law.shift) if law.whole else Fraction(1)  # the far end of the block
    assert law.level_bits >= 13 and HEAD_BITS + law.level_bits + law.digits == 64
    with mpmath.workdps(130):
        ends = [int(mpmath.floor(p * 2**GUIDE_BITS)) for p in reached(law)]  # the guides where a block ends
    of_guide = np.searchsorted(ends, np.arange(2**GUIDE_BITS), side="right") - 1
    mixed = np.isin(np.arange(2**GUIDE_BITS), ends[1:])
    least = {b: exp_neg(law.exact_excess(b, u), 64) for b in np.unique(of_guide[~mixed]).tolist()}
    for head, sure in enumerate(found.sure.tolist()):
        guide = head % 2**GUIDE_BITS
        level = (sure - (head << (64 - HEAD_BITS))) << HEAD_BITS  # as a part of 2^64
        if mixed[guide]:
            assert level == 0
        else:
            assert level <= least[of_guide[guide]] <= level + 2**25 + 2 ** (64 - law.level_bits)
    assert found.mixed * found.unsure == pytest.approx(mixed.mean())


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_few_words_are_not_sure_and_as_many_as_expected(law: Law) -> None:
    found, words = table(law), Noise(insecure_seed=5).bits(100_000)
    rest = int((words >= found.sure[(words >> np.uint64(64 - HEAD_BITS)).astype(int)]).sum())
    assert rest < 8000 and stats.binomtest(rest, 100_000, found.unsure).pvalue > CHANCE


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_word_says_of_a_candidate_what_all_its_bits_say(law: Law) -> None:
    found, noise = table(law), Noise(insecure_seed=7)
    words = noise.bits(20_000)
    edge = found.sure[:: 2**HEAD_BITS // 999]  # at the level where it is sure no longer
    words = np.concatenate([words, edge - np.uint64(1), edge])
    head = (words >> np.uint64(64 - HEAD_BITS)).astype(np.int64)
    sure = words < found.sure[head]
    quick = found.start[head]
    law.add_digits(quick, words)
    for _ in range(3):  # whatever the further bits
        value, keep = noise._settled(law, words)
        assert np.array_equal(value[sure], quick[sure])
        minus_zero = (value == 0) & (words >= 2**63) if law.whole else np.zeros(len(words), dtype=bool)
        assert np.array_equal(keep[sure], ~minus_zero[sure])


def test_what_is_filled_up_says_nothing_of_how_many_there_were() -> None:
    few = np.arange(1, 6, dtype=np.int64)
    assert filled(few, 10.0)[:6].tolist() == [1, 2, 3, 4, 5, 0]
    assert len(filled(few, 10.0)) == len(filled(few[:0], 10.0)) == len(filled(np.arange(20), 10.0)) > 20
    assert filled(np.arange(50), 0.0).tolist() == list(range(50))  # more than expected: none is left out


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_spare_candidates_are_nearly_always_enough_and_what_lacks_is_drawn(
    law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = table(law)
    calls: list[int] = []
    draw = Noise._draw
    monkeypatch.setattr(Noise, "_draw", lambda self, law, size: calls.append(size) or draw(self, law, size))
    drawn = [Noise(insecure_seed=seed)._draw(law, 300) for seed in range(200)]
    assert calls == [300] * 200
    monkeypatch.setattr(type(found), "candidates", lambda self, size: size)  # no spare ones: draws within draws
    again = [Noise(insecure_seed=seed)._draw(law, 300) for seed in range(200)]
    assert len(calls) > 500
    assert stats.ks_2samp(np.concatenate(drawn), np.concatenate(again)).pvalue > CHANCE


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("further", [[0], [ONES, ONES], [2**63, 1], [12345678912345678912]])
def test_a_block_in_doubt_is_settled_by_further_bits(law: Law, further: list[int]) -> None:
    cuts = table(law).cuts.tolist()
    for word in {cuts[0], cuts[len(cuts) // 2], cuts[-2], 2**63 - 1}:  # the last is the far tail
        noise = Scripted(further)
        block = noise._settle(law.cumulative, word, 63)
        low, bits = word, 63
        for extra in further:
            low, bits = low << 64 | extra, bits + 64
        with mpmath.workdps(130):
            assert reached(law)[block] <= mpmath.mpf(low) / mpmath.mpf(2) ** bits < reached(law)[block + 1]


@pytest.mark.parametrize("law", [law for law in LAWS if law.shift], ids=str)
def test_keeping_in_doubt_is_settled_by_further_bits(law: Law) -> None:
    seen = set()
    for block in (0, 3, 40):
        offset = int(law.offset(np.array([0xB0B0_B0B0_B0B0_B0B0], dtype=np.uint64))[0])
        for extra_offset in (0, ONES):
            with mpmath.workdps(60):
                bits = 0 if law.whole else extra_offset
                u = (mpmath.mpf(offset) + mpmath.mpf(bits) / 2**64) / mpmath.mpf(2) ** 64
                spread = mpmath.mpf(law.spread)
                square = not isinstance(law, Laplace)
                y = ((block + u) ** 2 - block**2) / (2 * spread**2) if square else u / spread
                chance = mpmath.exp(-y) * mpmath.mpf(2) ** 64
                level = int(mpmath.floor(chance))
                after = int((chance - level) * mpmath.mpf(2) ** 64)
                for extra_level in (0, after - 10**6, after + 10**6, ONES):
                    draws = [extra_level] if law.whole else [extra_offset, extra_level]
                    kept = Scripted([*draws, 0, 0])._settle_keep(law, block, offset, level)
                    assert kept == (level + mpmath.mpf(extra_level) / 2**64 < chance)
                    seen.add(kept)
            assert Noise(insecure_seed=0)._settle_keep(law, block, offset, level - 2)
            assert not Noise(insecure_seed=0)._settle_keep(law, block, offset, level + 2)
    assert seen == {True, False}


def parted(low: int, minus: int = 0) -> tuple[int, int]:
    """The word of a candidate whose block is selected by these 63 bits, and the further bits of that number."""
    guide, rest = divmod(low, 2 ** (63 - GUIDE_BITS))
    return (minus << GUIDE_BITS | guide) << (64 - HEAD_BITS), rest << (1 + GUIDE_BITS)


def settled(law: Law, word: int, *further: int) -> list[int]:
    """What is kept of one candidate."""
    value, keep = Scripted(further)._settled(law, np.array([word], dtype=np.uint64))
    return value[keep].tolist()  # type: ignore[no-any-return]


def test_words_in_doubt_take_the_exact_path_and_decide_the_draw() -> None:
    law = gaussian(5.0, whole=True)
    assert law.shift == 0  # each block is one integer
    for j, cut in enumerate(table(law).cuts[:20].tolist()):
        for minus, sign in ((0, 1), (1, -1)):
            word, rest = parted(cut, minus)
            assert settled(law, word, rest, 0, 0, ONES, ONES) == [sign * (j + 1)]
            assert settled(law, word, rest, 0, 0, 0) == ([sign * j] if j or not minus else [])


def test_zero_has_one_sign_and_far_words_give_far_draws() -> None:
    law = gaussian(5.0, whole=True)
    out = np.empty(3, dtype=np.int64)
    assert Scripted([0, 2**63, 0])._candidates(law, out).tolist() == [1] and out.tolist() == [0, 0, 0]
    assert settled(law, 0) == [0] and settled(law, 2**63) == []
    word, rest = parted(2**63 - 1)
    draw = settled(law, word, rest, 0, 0, ONES, ONES, 0)[0]
    with mpmath.workdps(80):  # the word says 1 - 2^-191 and not yet 1 - 2^-192
        tail = [mpmath.fsum(mpmath.exp(-(mpmath.mpf(x) ** 2) / 50) for x in range(k, 400)) for k in (0, draw, draw + 1)]
        assert tail[2] / tail[0] < mpmath.mpf(2) ** -191 * 2 and tail[1] / tail[0] >= mpmath.mpf(2) ** -191


def in_rational_numbers(law: Law, sums: list[int], word: int, further: list[int]) -> int | None:
    """The candidate with these bits: the word's, and after them the further ones of each of its numbers; None if rejected."""

    def number(first: int, bits: int, rest: int) -> int:
        return (first % 2**bits) << (64 - bits) | rest >> bits

    minus, most = word >> 63, law.digits + law.level_bits
    selected = number(word >> most, GUIDE_BITS, further[0]) >> 1
    level = number(word >> law.digits, law.level_bits, further[1])
    u = number(word, law.digits, further[2])
    u = ONES - u if minus else u
    part = Fraction(u >> (64 - law.shift), 2**law.shift) if law.whole else Fraction(u, 2**64)
    block = next(j for j, s in enumerate(sums) if selected < s >> 64)
    x = Fraction(2) ** law.shift * (block + part)
    value = int(x) if law.whole else math.floor(x + Fraction(1, 2))
    kept = part == 0 or Fraction(level, 2**64) < Fraction(exp_neg(law.exact_excess(block, part), 200), 2**200)
    return (-value if minus else value) if kept and not (law.whole and minus and value == 0) else None


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_batch_of_draws_equals_the_same_bits_worked_out_in_rational_numbers(law: Law) -> None:
    """All bits of every candidate are given; the sampler looks at most words alone, and must come to the same."""
    found, noise = table(law), Noise(insecure_seed=21)
    edges = found.sure[:: 2**HEAD_BITS // 60]
    words = np.concatenate([noise.bits(300), edges, edges - np.uint64(1)])
    further = noise.bits(3 * len(words)).reshape(-1, 3)
    unsure = words >= found.sure[(words >> np.uint64(64 - HEAD_BITS)).astype(int)]
    sums = law.cumulative(127)
    expected = [in_rational_numbers(law, sums, w, f) for w, f in zip(words.tolist(), further.tolist(), strict=True)]
    out = np.empty(len(words), dtype=np.int64)
    rejected = Scripted([*words.tolist(), *further[unsure].ravel().tolist()])._candidates(law, out)
    assert sorted(rejected.tolist()) == [i for i, value in enumerate(expected) if value is None]
    assert np.delete(out, rejected).tolist() == [value for value in expected if value is not None]


# -- coins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 1e-300, 1.0, 0.5, 0.01, 1 / 3])
def test_coins_have_their_rate(rate: float) -> None:
    coins = Noise(insecure_seed=4).coins(rate, 300_000)
    assert coins.dtype == np.bool_ and coins.shape == (300_000,)
    assert stats.binomtest(int(coins.sum()), len(coins), rate).pvalue > CHANCE
    if rate not in (0.0, 1e-300):
        assert rate == 1 or stats.binomtest(int(coins.sum()), len(coins), rate * 1.2).pvalue < 1e-9


def test_a_coin_compares_every_digit_of_its_rate() -> None:
    rate = 2.0**-30 / 3
    whole, rest = divmod(int(Fraction(rate) * 2**128), 2**64)
    assert rest
    for word, further, head in [
        (whole - 1, ONES, True),
        (whole + 1, 0, False),
        (whole, rest - 1, True),
        (whole, rest, False),
        (whole, rest + 1, False),
    ]:
        assert Scripted([word, further]).coins(rate, 1).tolist() == [head]
    assert Scripted([2**63 - 1, 2**63]).coins(0.5, 2).tolist() == [True, False]


# -- choices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monotone, factor", [(False, 0.5), (True, 1.0)])
def test_a_choice_has_the_probabilities_of_the_exponential_mechanism(monotone: bool, factor: float) -> None:
    scores, noise = np.array([-30, 5, 0, 12, 12, 9]), Noise(insecure_seed=8)
    chosen = np.bincount([noise.noisy_max(scores, 0.8, 4.0, monotone) for _ in range(20_000)], minlength=6)
    for slope, same in ((factor, True), (factor * 2, False), (factor / 2, False)):
        odds = np.exp(slope * 0.8 / 4.0 * scores)
        p = float(stats.chisquare(chosen, 20_000 * odds / odds.sum()).pvalue)
        assert p > CHANCE if same else p < 1e-9


def test_a_choice_survives_the_ends_of_the_integers_and_many_candidates() -> None:
    ends = np.iinfo(np.int64)
    noise = Noise(insecure_seed=2)
    assert all(noise.noisy_max(np.array([ends.min, ends.max, ends.min]), 1.0, 1.0) == 1 for _ in range(50))
    many = np.zeros(300_000, dtype=np.int64)
    many[123_456] = 60
    assert noise.noisy_max(many, 1.0, 0.5) == 123_456
    assert noise.noisy_max(np.array([7]), 1e-300, 1e300) == 0
    assert isinstance(noise.noisy_max(many[::-1], 1.0, 0.5), int)


@pytest.mark.parametrize("words, index", [([2**63, 5], 1), ([2**63, 0, 5], 1), ([2**63 - 1, ONES - 5], 0), ([0], 0)])
def test_a_choice_in_doubt_is_settled_by_further_bits(words: list[int], index: int) -> None:
    noise = Scripted(words)
    assert noise.noisy_max(np.array([3, 3]), 1.0, 1.0) == index
    assert not noise.script, "no further bits were looked at"


def test_a_choice_in_doubt_is_settled_as_mpmath_says() -> None:
    scores = np.array([3, 1, 5])
    with mpmath.workdps(60):
        odds = [mpmath.exp(mpmath.mpf(s) / 2) for s in scores.tolist()]
        edge = odds[0] / mpmath.fsum(odds) * mpmath.mpf(2) ** 64
        word, after = int(edge), int((edge - int(edge)) * mpmath.mpf(2) ** 64)
    assert cumulative([Fraction(1), Fraction(2), Fraction(0)], 64)[0] in (word, word - 1, word - 2)
    for further, index in ((0, 0), (after - 10, 0), (after + 10, 1), (ONES, 1)):
        assert Scripted([word, further]).noisy_max(scores, 1.0, 1.0) == index


# -- many draws --------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("sampler, cdf", SAMPLERS, ids=NAMES)
@pytest.mark.parametrize("scale", SCALES)
def test_a_hundred_million_draws_fit_in_the_middle_and_in_the_tails(
    scale: float, sampler: Callable[[Noise, float, int], np.ndarray], cdf: Cdf
) -> None:
    noise, n = Noise(insecure_seed=31), 20_000_000
    for _ in range(5):
        draws = sampler(noise, scale, n)
        assert chi_square(draws, cdf, scale) > CHANCE
        for far in (3, 4, 5):
            edge = np.array([-math.ceil(far * scale)])  # the lower tail: no digits lost to 1 - p
            expected = float(cdf(edge, scale)[0]) * n
            for tail in (draws <= edge[0], draws >= -edge[0]):
                hits = int(tail.sum())
                assert min(stats.poisson.cdf(hits, expected), stats.poisson.sf(hits - 1, expected)) > CHANCE / 10
        pairs = np.histogram2d(np.sign(draws[:-1:2]), np.sign(draws[1::2]), bins=[[-2, -0.5, 0.5, 2]] * 2)[0]
        filled = pairs[np.ix_(pairs.sum(1) > 1000, pairs.sum(0) > 1000)]
        assert stats.chi2_contingency(filled).pvalue > CHANCE
