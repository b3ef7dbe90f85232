// Quizzes: checks the choice and says why. Without this script all explanations stand folded below the question.
(function () {
  "use strict";

  function prepare(quiz) {
    var said = quiz.querySelector("[role=status]");
    var all = quiz.querySelector("details");
    var button = quiz.querySelector("button");
    var choices = Array.from(quiz.querySelectorAll("input"));

    function say(kind, text) {
      said.className = kind;
      said.innerHTML = text; // from the page itself
    }
    function check() {
      var at = choices.findIndex(function (c) {
        return c.checked;
      });
      if (at < 0) return say("", "Choose an answer first.");
      var why = all.querySelectorAll("li")[at];
      var right = why.hasAttribute("data-right");
      var verdict = right ? "Right." : "Not this one.";
      say(right ? "quiz-right" : "quiz-wrong", "<b>" + verdict + "</b> " + why.querySelector("span").innerHTML);
      if (right) all.hidden = false; // now the others may be read, too
    }

    button.hidden = false;
    all.hidden = true;
    button.addEventListener("click", check);
    choices.forEach(function (c) {
      c.checked = false; // Firefox keeps choices when a page is loaded again
      c.addEventListener("change", function () {
        say("", "");
      });
      c.addEventListener("keydown", function (event) {
        if (event.key === "Enter") check();
      });
    });
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".quiz").forEach(prepare);
  });
})();
