"""Language-model policies: how a state enters a causal LM, how it answers, and how it is trained (by TRL).

tokenizer, models -> one small model trained here, or any Hugging Face model; state_embedding -> the state as soft
tokens of the prompt; prompts, generate -> texts; rollout -> episodes over the batched dynamics; advantages, critic,
trainer -> PPO, GRPO and RLOO in one subclass of TRL's GRPOTrainer; stages -> what comes before reinforcement.
"""
