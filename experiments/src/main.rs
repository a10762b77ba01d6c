//! Runs experiments on the engine: each is a question, a measurement and its data.

fn main() {
    println!("no experiment has been set up yet");
}
