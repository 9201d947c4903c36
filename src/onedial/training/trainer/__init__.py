"""The trainer: what a training run does, stage by stage.

Read `loop` first, which calls the stages in order:

    open_run             opens task, models, engine and verifiers; `resume` restores a checkpoint
    packing              judged groups → one packed batch; mini-batches and micro-batches
    advantages           rewards → advantages (group statistics, or a critic's GAE)
    step                 mini-batches, gradients, optimizer steps of `policy`, `critic` and their `master_weights`
    run_writer           rollouts, metrics and checkpoints to the run directory; `checkpoint` is their format
    periodic_evaluation  during training; `evaluate` is the same for any model
    offline              rows that train on a dataset; `past_rollouts` makes one of an earlier run
    memory_plan          how large a micro-batch may be; `device` and `cpu` choose and prepare what computes
"""
