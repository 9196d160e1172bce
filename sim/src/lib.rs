//! An Internet in memory: hosts, links, NATs and firewalls under a virtual clock; and the same models for real programs
//! in network namespaces. It knows nothing of Kuguri's protocol.
