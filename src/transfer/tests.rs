//! Both ends over a pipe.
