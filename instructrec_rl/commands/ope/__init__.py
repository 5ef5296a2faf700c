"""Off-policy evaluation: judge a policy by what another one logged."""
