"""Functions as learners write them, each with one mistake, and words of the message that is meant for it."""

from wrong_answers import inside, neurons, numbers, reading, tuned

WRONG = inside.WRONG | neurons.WRONG | numbers.WRONG | reading.WRONG | tuned.WRONG
