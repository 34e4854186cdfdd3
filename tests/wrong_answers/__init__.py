"""Functions as learners write them, each with one mistake, and words of the message that is meant for it."""

from wrong_answers import inside, neurons, numbers, reading

WRONG = inside.WRONG | numbers.WRONG | reading.WRONG | neurons.WRONG
