"""The child process that owns a model on a device, and the worker's handle to it.

    worker's process                             device process (``python -m worker.device``)
    process.DeviceProcess  -- LoadRequest -->    loading.load_model: verify, convert, load, try, measure
                           <-- Loaded --
                           -- PaddedBatch ... -> model.LoadedModel: up to ``depth`` batches at once
                           <-- Scored, ... ---   answers in the order of the batches

Only what runs in the device process imports torch or OpenVINO.
"""
