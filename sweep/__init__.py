"""Networks are tried until the best one is found: where exits sit, how they are trained, how they are made smaller."""
