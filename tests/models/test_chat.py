"""Conversations with a model: where a prompt stands, and what the model reads."""

import dataclasses

import numpy as np
import pytest
from chat_toys import ANSWER, MORE, SYSTEM, USER, write_model

import prompt_tuning as pt
from prompt_tuning.rows import layouts

TURNS = [SYSTEM, USER, ANSWER, MORE]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return pt.load_model(write_model(tmp_path_factory.mktemp('chat') / 'model'))


def question(model, turns=TURNS):
  return model.vocabulary.encode(model.chat_format.template.render(turns, add_generation_prompt=True).text)


def test_a_reply_is_what_is_predicted_for_the_text_of_the_template(model):
  (ids,) = model.predict([question(model)], max_length=5)
  assert model.chat(TURNS, max_length=5) == model.vocabulary.decode(ids.tolist())


@pytest.mark.parametrize(('placement', 'before'), [
  (layouts.at_system, '<|im_start|>system\n'),
  (layouts.at_user, '<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\n')])
def test_a_prompt_of_embedded_tokens_reads_as_these_tokens(model, placement, before):
  tokens, place = [70, 80], len(model.vocabulary.encode(before))
  prompt = pt.SavedPrompt(np.asarray(model.embeddings())[tokens], placement)
  ids = question(model)
  (reply,) = model.predict([[*ids[:place], *tokens, *ids[place:]]], max_length=5)
  assert model.chat(TURNS, prompt=prompt, max_length=5) == model.vocabulary.decode(reply.tolist())


@pytest.mark.slow
def test_rows_of_a_batch_may_have_prompts_in_different_turns(model):
  vectors = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
  prompts = [pt.SavedPrompt(vectors, layouts.at_user), pt.SavedPrompt(-vectors, layouts.at_system), None]
  chats = [TURNS, TURNS[:2], TURNS]
  assert model.chat(chats, prompt=prompts, max_length=5) == [
    model.chat(chat, prompt=prompt, max_length=5) for chat, prompt in zip(chats, prompts, strict=True)]


def test_the_place_of_a_prompt_is_saved_with_it(model, tmp_path):
  saved = pt.SavedPrompt(np.ones((2, 12), np.float32), layouts.at_user)
  saved.save(str(tmp_path / 'a.safetensors'))
  found = pt.load_prompt(str(tmp_path / 'a.safetensors'))
  assert found.placement is layouts.at_user
  assert model.chat(TURNS, prompt=found, max_length=5) == model.chat(TURNS, prompt=saved, max_length=5)
  with pytest.raises(ValueError, match=r'prompt_at=user cannot be used: .* an input is a plain text'):
    model.predict(['hello'], prompt=found)


@pytest.mark.parametrize(('messages', 'message'), [
  ([], 'messages=.* cannot be used'), ('hi', "messages='hi' cannot be used"), ([[]], 'Conversation 0: found'),
  ([TURNS, [*TURNS, ANSWER]], "Conversation 1 ends with the assistant's turn"), ([5], 'Conversation 0: found 5'),
  ([{'role': 'user'}], 'Conversation 0: turn 0 has the content None')])
def test_what_is_no_question_is_an_error(model, messages, message):
  with pytest.raises(ValueError, match=message):
    model.chat(messages)


def test_a_model_without_a_template_says_so(model, tmp_path):
  with pytest.raises(ValueError, match='A conversation needs a vocabulary'):
    dataclasses.replace(model, vocabulary=None).chat(TURNS)
  with pytest.raises(ValueError, match='t5_integers has no chat template'):
    pt.load_model('t5_integers').chat(TURNS)


def test_a_model_is_saved_with_its_template(model, tmp_path):
  pt.save_model(model, str(tmp_path / 'copy'))
  assert pt.load_model(str(tmp_path / 'copy')).chat(TURNS, max_length=5) == model.chat(TURNS, max_length=5)
