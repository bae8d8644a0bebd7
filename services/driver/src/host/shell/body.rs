//! The code that serves and the code that may come back: modules in memory, how one was put over the other, and when the
//! memory of old ones may go.

use std::{collections::BTreeSet, sync::Arc};

use driver_abi::Op;
use hotpatch::{Closed, Code, Function, Gate, Module, Redirect, Refusal, Table};
use protocol::driver::{Mode, Version};

use crate::host::machine::probation::Probation;

/// Versions that may lie over one another by jumps; the next one comes by its table.
pub(super) const LAYERS_MAX: usize = 6;

/// Modules over one another: the lowest one's table is in use, and the entries of its functions jump to the highest one's.
pub(super) struct Stack {
    layers: Vec<Layer>,
}

/// One version in memory.
pub(super) struct Layer {
    pub(super) module: Arc<Module>,
    pub(super) version: Version,
    /// From the lowest layer's functions to this one's.
    redirects: Vec<Redirect>,
}

/// A version on probation.
pub(super) struct Trial {
    pub(super) probation: Probation,
    pub(super) tried: Version,
}

/// All code of the driver that is in memory.
pub(super) struct Body {
    pub(super) serves: Stack,
    /// What served before.
    pub(super) before: Option<Stack>,
    /// What serves no more; a call that waits may yet return to it. With the generation that came after it.
    old: Vec<(u64, Old)>,
    pub(super) trial: Option<Trial>,
}

/// Held until nobody returns to it.
enum Old {
    Stack(#[expect(dead_code, reason = "held, not read")] Stack),
    Layer(#[expect(dead_code, reason = "held, not read")] Layer),
}

impl Stack {
    pub(super) fn new(module: Arc<Module>, version: Version) -> Self {
        Self { layers: vec![Layer { module, version, redirects: Vec::new() }] }
    }

    /// What answers calls.
    pub(super) fn top(&self) -> &Layer {
        self.layers.last().expect("a stack is made with a layer and keeps its lowest")
    }

    pub(super) fn base(&self) -> &Layer {
        self.layers.first().expect("a stack is made with a layer and keeps its lowest")
    }

    pub(super) fn table(&self) -> Table {
        self.base().module.table()
    }

    pub(super) fn height(&self) -> usize {
        self.layers.len()
    }

    fn below(&self) -> Option<&Layer> {
        self.layers.len().checked_sub(2).and_then(|at| self.layers.get(at))
    }
}

impl Body {
    pub(super) fn new(serves: Stack) -> Self {
        Self { serves, before: None, old: Vec::new(), trial: None }
    }

    pub(super) fn module(&self) -> &Arc<Module> {
        &self.serves.top().module
    }

    pub(super) fn version(&self) -> &Version {
        &self.serves.top().version
    }

    /// What a rollback goes back to.
    pub(super) fn previous(&self) -> Option<&Layer> {
        self.serves.below().or_else(|| self.before.as_ref().map(Stack::top))
    }

    /// By which mode the version that serves came over the one before.
    pub(super) fn mode(&self) -> Mode {
        if self.serves.height() > 1 { Mode::Jump } else { Mode::Table }
    }

    /// A new stack serves; its table is in use already.
    pub(super) fn replaced(&mut self, stack: Stack, generation: u64) {
        let before = std::mem::replace(&mut self.serves, stack);
        if let Some(oldest) = self.before.replace(before) {
            self.old.push((generation, Old::Stack(oldest)));
        }
    }

    /// A new layer serves; its jumps are written already.
    pub(super) fn covered(&mut self, layer: Layer, generation: u64) {
        self.serves.layers.push(layer);
        if let Some(oldest) = self.before.take() {
            self.old.push((generation, Old::Stack(oldest)));
        }
    }

    /// What served before serves again; its table is in use already, or the jumps over it are undone.
    pub(super) fn went_back(&mut self, generation: u64) {
        if self.serves.height() > 1 {
            if let Some(layer) = self.serves.layers.pop() {
                self.old.push((generation, Old::Layer(layer)));
            }
        } else if let Some(before) = self.before.take() {
            let left = std::mem::replace(&mut self.serves, before);
            self.old.push((generation, Old::Stack(left)));
        }
    }

    /// Addresses of functions whose entry jumps to the highest layer.
    pub(super) fn redirected(&self) -> BTreeSet<usize> {
        let redirects = &self.serves.top().redirects;
        redirects.iter().map(|redirect| redirect.function().address).collect()
    }

    /// The jumps of the highest layer, to be undone.
    pub(super) fn jumps(&mut self) -> Option<&mut Vec<Redirect>> {
        let is_over = self.serves.height() > 1;
        self.serves.layers.last_mut().filter(|_| is_over).map(|layer| &mut layer.redirects)
    }

    /// Gives back the memory of code that no call can return to: none waits in it, and none that runs began before it was
    /// replaced.
    pub(super) fn sweep(&mut self, gate: &Gate) {
        let oldest = gate.oldest();
        self.old.retain(|(after, _)| oldest.is_some_and(|oldest| oldest < *after));
    }
}

impl Layer {
    pub(super) fn new(module: Arc<Module>, version: Version, redirects: Vec<Redirect>) -> Self {
        Self { module, version, redirects }
    }
}

/// Makes the entries of `from`'s operations jump to `to`'s: all of them, or nothing is changed. Other functions stay as they are: the way
/// back needs the old `import_state` and what it calls, and nobody else gets to them but through operations.
///
/// # Errors
/// Why an operation can't be reached so.
pub(super) fn cover(closed: &Closed, from: &Module, to: &Module) -> Result<Vec<Redirect>, Refusal> {
    if operations(from).is_empty() || operations(from) != operations(to) {
        let text =
            "the functions of the two versions' operations can't be told by their symbol tables";
        return Err(Refusal::new(Code::NoSymbol, text));
    }
    let mut redirects: Vec<Redirect> = Vec::new();
    for function in from.functions().iter().filter(|function| function.operation.is_some()) {
        let is_it = |other: &&Function| other.operation == function.operation;
        let Some(target) = to.functions().iter().find(is_it) else { continue };
        let entry = std::ptr::with_exposed_provenance(target.address);
        let made = Redirect::new(function, entry).and_then(|mut redirect| {
            redirect.apply(closed)?;
            Ok(redirect)
        });
        match made {
            Ok(redirect) => redirects.push(redirect),
            Err(refusal) => {
                uncover(closed, &mut redirects)?;
                return Err(refusal);
            }
        }
    }
    Ok(redirects)
}

/// The operations that a function of the symbol table carries out.
fn operations(module: &Module) -> BTreeSet<Op> {
    module.functions().iter().filter_map(|function| function.operation).collect()
}

/// Undoes jumps, the last one first.
pub(super) fn uncover(closed: &Closed, redirects: &mut Vec<Redirect>) -> Result<(), Refusal> {
    while let Some(redirect) = redirects.last_mut() {
        redirect.undo(closed)?;
        redirects.pop();
    }
    Ok(())
}
