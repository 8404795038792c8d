//! OP-Engine.
