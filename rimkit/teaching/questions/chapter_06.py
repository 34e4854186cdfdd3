"""Chapter 06: the paper's rule for a set of neurons."""

from rimkit.teaching.exercises import Exercise

# Eight neurons of a layer in three pairs, from the largest rise of the maximum to the smallest.
RISES = {"pair 1": "cfahbedg", "pair 2": "faechgbd", "pair 3": "bfhacdge"}


def size_of_set(m: int, pairs: int = len(RISES)) -> int:
    """How many neurons are among the first ``m`` of at least ``pairs`` of the three pairs."""
    return sum(sum(neuron in order[:m] for order in RISES.values()) >= pairs for neuron in "abcdefgh")


def smallest_m(neurons: int, pairs: int = len(RISES)) -> int:
    """The smallest m with which that many neurons are found."""
    return next(m for m in range(1, 9) if size_of_set(m, pairs) >= neurons)


def check_m(answer) -> bool | str:
    m = float(answer)
    if m == smallest_m(2):
        return True
    if m == smallest_m(2, pairs=2):
        return "that is enough for two of the three pairs; the paper's rule asks for every pair."
    if m == smallest_m(1):
        return "two neurons are taken from each pair then, and only one of them is the same in all three."
    if m != round(m) or not 1 <= m <= 8:
        return "m counts neurons of a pair: a whole number from 1 to 8."
    return f"with m = {m:.0f} the set has {size_of_set(int(m))} neurons."


WORST = """
orders = rk.exercise("06").given.values()
worst = {neuron: max(order.index(neuron) + 1 for order in orders) for neuron in "abcdefgh"}
sorted(worst.values())[1]
"""

EXERCISES = {
    "06.1": Exercise(
        "Which m?",
        ("easy", "essential", 10),
        "With which m does the paper's rule give exactly two neurons?",
        check_m,
        hints=(
            "Write down, for every neuron, its worst rank over the three pairs: with m equal to that rank it enters the set.",
        ),
        answer=(
            f"`m = {smallest_m(2)}`. Worst ranks: f 2, a 4, c and h 5, b 7, d, e and g 8. The set has one neuron from m = 2, two "
            f"from m = {smallest_m(2)}, four from m = 5, and all eight from m = 8, whatever the neurons do. Neither m nor the "
            "size follows from the model: one of them must be given for a set to be repeated, and the paper gives neither."
        ),
        expects="a whole number from 1 to 8",
        code=WORST,
        given=RISES,
    ),
}
