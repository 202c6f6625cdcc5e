//! What the ingest writes: events and metrics of a worker, with the byte offsets in the same transaction.
