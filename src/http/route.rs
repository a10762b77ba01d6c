//! Which path is answered how.

/// What a route says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    /// A plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let mut body = body.into();
        body.push('\n');
        Self {
            status,
            content_type: PLAIN,
            body,
        }
    }
}

/// A path and what is there.
pub struct Route {
    path: &'static str,
    about: &'static str,
    answer: Box<dyn Fn() -> Answer + Send + Sync>,
}

impl Route {
    /// At `path` is what `answer` says, which `about` describes to people. It is called on the
    /// server's thread and must not wait for anything.
    pub fn new(
        path: &'static str,
        about: &'static str,
        answer: impl Fn() -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            about,
            answer: Box::new(answer),
        }
    }
}

/// All that a server has to say.
pub struct Routes(Vec<Route>);

impl Routes {
    /// These routes and no others.
    pub const fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The paths, for people.
    pub fn paths(&self) -> String {
        let paths: Vec<_> = self.0.iter().map(|route| route.path).collect();
        paths.join(", ")
    }

    /// What is said to `method` of `path`, without its query.
    pub fn answer(&self, method: &str, path: &str) -> Answer {
        let Some(route) = self.0.iter().find(|route| route.path == path) else {
            return Answer::text(404, format!("not found; there are\n{}", self.list()));
        };
        if method == "GET" || method == "HEAD" {
            (route.answer)()
        } else {
            Answer::text(405, "only GET and HEAD")
        }
    }

    fn list(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|route| format!("{}  {}", route.path, route.about));
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(vec![
            Route::new("/metrics", "numbers", || Answer::text(200, "1")),
            Route::new("/readyz", "whether it reads", || Answer::text(503, "no")),
        ])
    }

    #[test]
    fn a_route_answers_get_and_head_and_nothing_else() {
        let routes = routes();
        let get = routes.answer("GET", "/metrics");
        assert_eq!((get.status, get.body.as_str()), (200, "1\n"));
        assert_eq!(routes.answer("HEAD", "/readyz").status, 503);
        for method in ["POST", "PUT", "DELETE", "BREW"] {
            assert_eq!(routes.answer(method, "/metrics").status, 405, "{method}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_what_is() {
        for path in ["/", "/metrics/", "/Metrics", ""] {
            let answer = routes().answer("GET", path);
            assert_eq!(answer.status, 404, "{path}");
            for line in ["/metrics  numbers", "/readyz  whether it reads"] {
                assert!(answer.body.contains(line), "{}", answer.body);
            }
        }
        assert_eq!(routes().paths(), "/metrics, /readyz");
    }
}
