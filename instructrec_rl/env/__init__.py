"""Instructions as environments: data -> spec -> states -> batched dynamics -> Gymnasium shells."""
