//! Steps that take a scene down again, in reverse order, whatever happens in between.

use anyhow::Result;

type Step<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// What has to be undone; the last step first. Runs on drop when [`Undo::finish`] did not.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Step<'a>>,
}

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Undo({} steps)", self.steps.len())
    }
}

impl<'a> Undo<'a> {
    /// Nothing to undo yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step.
    pub fn push(&mut self, step: impl FnOnce() -> Result<()> + Send + 'a) {
        self.steps.push(Box::new(step));
    }

    /// Keeps a value until the scene is taken down.
    pub fn hold<T: Send + 'a>(&mut self, value: T) {
        self.push(move || {
            drop(value);
            Ok(())
        });
    }

    /// Undoes everything.
    ///
    /// # Errors
    ///
    /// The first step that failed; the others are tried all the same.
    pub fn finish(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(step) = self.steps.pop() {
            let done = step();
            if result.is_ok() {
                result = done;
            }
        }
        result
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("cannot take the scene down: {error:#}");
        }
    }
}
