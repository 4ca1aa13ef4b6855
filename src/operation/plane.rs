//! Bedrock's planes: each has a host of its own in every region, and fails on its own.

/// Which of Bedrock's hosts serves an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// `bedrock-runtime`: inference.
    Runtime,
    /// `bedrock`: models and inference profiles.
    Control,
    /// `bedrock-agent-runtime`: of its operations, Rerank alone.
    AgentRuntime,
    /// `bedrock-mantle`: the APIs of OpenAI and Anthropic, if `[mantle]` is enabled.
    Mantle,
}

impl Plane {
    /// Every plane, in the order of [`Planes`].
    pub const ALL: [Plane; 4] = [Plane::Runtime, Plane::Control, Plane::AgentRuntime, Plane::Mantle];

    /// As metrics and `/status` name it.
    pub fn name(self) -> &'static str {
        match self {
            Plane::Runtime => "runtime",
            Plane::Control => "control",
            Plane::AgentRuntime => "agent_runtime",
            Plane::Mantle => "mantle",
        }
    }
}

/// One of something for every plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planes<T>(Box<[T]>);

impl<T> Planes<T> {
    /// Makes the one of each plane.
    pub(crate) fn each(make: impl FnMut(Plane) -> T) -> Planes<T> {
        Planes(Plane::ALL.into_iter().map(make).collect())
    }

    /// Makes the one of each plane.
    ///
    /// # Errors
    /// Why one of them cannot be made.
    pub(crate) fn try_each<E>(make: impl FnMut(Plane) -> Result<T, E>) -> Result<Planes<T>, E> {
        Plane::ALL.into_iter().map(make).collect::<Result<_, E>>().map(Planes)
    }

    /// That of one plane.
    pub(crate) fn of(&self, plane: Plane) -> &T {
        &self.0[plane as usize]
    }

    /// That of one plane, to be changed.
    pub(crate) fn of_mut(&mut self, plane: Plane) -> &mut T {
        &mut self.0[plane as usize]
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T: Default> Default for Planes<T> {
    fn default() -> Planes<T> {
        Planes::each(|_| T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plane_has_its_own() {
        let names = Planes::each(Plane::name);
        for plane in Plane::ALL {
            assert_eq!(*names.of(plane), plane.name());
        }
        let mut names = names;
        *names.of_mut(Plane::Control) = "other";
        assert_eq!((*names.of(Plane::Control), *names.of(Plane::Runtime)), ("other", "runtime"));
        assert_eq!(names.iter().count(), Plane::ALL.len());
    }
}
