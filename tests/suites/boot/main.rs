//! Machines with an init of their own: the ground that the stories of the installed agent stand on.

mod machine;
