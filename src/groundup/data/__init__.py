"""Token shards and batches: ``encode`` writes them, ``shards`` reads them, ``batches`` serves them to training.

Import from the modules (``from groundup.data.shards import TokenShards``): only ``batches`` loads torch.
"""
