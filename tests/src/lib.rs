//! Claims about two or more nodes, or real processes.
