//! What vfioadm believes of the kernel, on the fake one. The lab runs the same cases on a real one.
