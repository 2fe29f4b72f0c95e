"""Token shards and batches: ``encode`` writes them, ``shards`` reads them, ``batches`` serves them to training.

Import the module that is needed (``from groundup.data.shards import TokenShards``): only ``batches`` loads torch.
"""
