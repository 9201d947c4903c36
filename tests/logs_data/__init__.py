"""Generated logs for the tests: every format written as its writer does, from one plain list of rollouts."""
